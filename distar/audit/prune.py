"""`distar audit prune`: find what is left over of runs that are no more, and remove it if told to.

Whatever is younger than the limit, or locked, stays: checkpoints and parts by the lock of their work directory,
downloads and watched releases by theirs, unfinished outputs and worktrees by the lock that their writer holds on the
folder.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Literal

from rich.filesize import decimal as bytes_text

from distar import paths
from distar.atomic import is_workshop, remove_whole
from distar.audit.evidence import gather_statements
from distar.audit.origin import release_md5
from distar.audit.page import Page, Rows, Status
from distar.audit.repository import Repository
from distar.errors import DistarError, ReleaseError, StorageError, WorkDirectoryError
from distar.fetching.downloads import downloads_dir
from distar.git import in_repository
from distar.locking import held_if_free
from distar.release.releases import alias_names, read_alias, release_ids
from distar.release.storage import Store, open_store
from distar.shared_params import PARAMS_PATH, RootParams, read_strict
from distar.worktree import output_of

Kind = Literal["experiment", "work directory", "unfinished output", "download", "worktree"]

_SECONDS_A_DAY = 86400
# DVC's own references (its queue, an experiment that runs) stand elsewhere below refs/exps
_EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/.+")
_WORK_DIRECTORY = re.compile(r"[0-9a-f]{16}")
_DOWNLOAD = re.compile(r"[0-9a-f]{64}\.(partial|lock)|[0-9a-f]{32}\.unpinned")
_RELEASE_LOCK = re.compile(r"[0-9a-f]{64}\.lock")


@dataclass(frozen=True)
class Stale:
    """Something left over; `num_bytes` is None where git keeps it among other things."""

    kind: Kind
    place: str
    age_days: int
    num_bytes: int | None
    why: str
    remove: Callable[[], object]


@dataclass(frozen=True)
class Outcome:
    """What became of something stale: left, removed, or why it could not be."""

    stale: Stale
    removed: bool
    error: str | None

    @property
    def status(self) -> Status:
        """How a table marks it."""
        return "bad" if self.error else "good" if self.removed else "neutral"

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints of it."""
        fields = {name: value for name, value in vars(self.stale).items() if name != "remove"}
        return {**fields, "removed": self.removed, "error": self.error}


def prune(older_than_days: int, delete: bool) -> list[Outcome]:
    """Find what is stale in the project of the current folder, and remove it if `delete`.

    Raises:
        ParameterError: there is no params.yaml here, or it is wrong.
        StorageError: git fails.
    """
    limit = time.time() - older_than_days * _SECONDS_A_DAY
    kinds = (_experiments, _unfinished, _work_directories, _downloads, _releases, _worktrees)
    found = list(chain.from_iterable(kind(limit) for kind in kinds))
    return [_removed(stale) if delete else Outcome(stale, False, None) for stale in found]


def page(outcomes: Sequence[Outcome], older_than_days: int) -> Page:
    """Describe what was found, and what became of it."""
    rows = [
        (
            outcome.stale.kind,
            outcome.stale.place,
            f"{outcome.stale.age_days} days",
            "" if outcome.stale.num_bytes is None else bytes_text(outcome.stale.num_bytes),
            outcome.error or outcome.stale.why,
        )
        for outcome in outcomes
    ]
    removed, failed = [o for o in outcomes if o.removed], [o for o in outcomes if o.error]
    size = bytes_text(sum(outcome.stale.num_bytes or 0 for outcome in removed or outcomes))
    if not outcomes:
        lead = f"Nothing is older than {older_than_days} days and unused."
    elif removed or failed:
        lead = f"{len(removed)} removed, {size}; {len(failed)} could not be removed."
    else:
        lead = f"{len(outcomes)} older than {older_than_days} days and unused, {size}; --delete removes them."
    columns = ("what", "where", "age", "size", "why")
    table = Rows("Left over of earlier runs", columns, rows, [outcome.status for outcome in outcomes])
    return Page("What is stale", lead, [table] if outcomes else [])


def _removed(stale: Stale) -> Outcome:
    try:
        stale.remove()
    except (OSError, DistarError) as error:
        return Outcome(stale, False, f"not removed: {error}")
    return Outcome(stale, True, None)


def _experiments(limit: float) -> Iterator[Stale]:
    """Find experiments that no branch or tag contains and that released nothing.

    A published release's parameters and lock may stand in an experiment alone, where `distar audit verify` finds
    them. If the store does not tell what was released, they are shown, and not removed. Of an experiment that moves
    meanwhile, git refuses the removal.
    """
    if not in_repository():
        return
    repository = Repository()
    kept_nowhere = set(_git("rev-list", "--glob=refs/exps", "--not", "--branches", "--tags", "--remotes").split())
    fields = "--format=%(objectname) %(committerdate:unix) %(refname)"
    lines = (line.split(" ", 2) for line in _git("for-each-ref", fields, "refs/exps").splitlines())
    old = [
        (commit, float(committed), name)
        for commit, committed, name in lines
        if _EXPERIMENT.fullmatch(name) and commit in kept_nowhere and float(committed) < limit
    ]
    doubt, released = "", set[bytes]()
    if old:  # only then is the store asked
        try:
            released = _released()
        except DistarError as error:
            doubt = f"it may have released something: {error}"
    for commit, committed, name in old:
        if not any(md5 in (repository.read(commit, "dvc.lock") or b"") for md5 in released):
            why = f"no branch or tag contains {commit[:12]}, and it released nothing"
            remove = partial(_git, "update-ref", "-d", name, commit)
            stale = Stale("experiment", name, _age(committed), None, why, remove)
            yield _kept(stale, doubt) if doubt else stale


def _kept(stale: Stale, why: str) -> Stale:
    """Return what is shown, and not removed, since it may be in use."""

    def keep() -> None:
        raise StorageError(why)

    return replace(stale, why=why, remove=keep)


def _released() -> set[bytes]:
    """Return DVC's hashes of all published releases.

    Raises:
        ReleaseError: there is no such store, or something that is stated of a release cannot be read.
        StorageError: the store cannot be reached, or refuses.
    """
    store = _store()
    everything = [gather_statements(store, release, {}, ()) for release in release_ids(store)]
    for damaged in (one for statements in everything for one in statements.unreadable):
        raise ReleaseError(f"{store.url}: {damaged.name}: {damaged.reason}")
    locks = [one.stated.dvc_lock for statements in everything for one in statements.readable]
    return {md5.encode() for lock in locks if (md5 := release_md5(lock))}


def _store() -> Store:
    params = read_strict(PARAMS_PATH, RootParams).publish
    store = open_store(params.url, params.endpoint_url)
    store.require()  # one that is not mounted would tell of no release
    return store


def _work_directories(limit: float) -> Iterator[Stale]:
    """Find work directories by their name, a fingerprint, and their lock: the root may be shared with other things."""
    roots = {paths.work_root(task) for task in ("train", "evaluate", "retrain")}
    for folder in sorted(chain.from_iterable(root.iterdir() for root in roots if root.is_dir())):
        lock = folder / "lock"
        if _WORK_DIRECTORY.fullmatch(folder.name) and lock.is_file():
            yield from _unused("work directory", [folder], lock, "no process works there", limit)


def _unfinished(limit: float) -> Iterator[Stale]:
    """Find what killed writers left in the project, its local store and mirror, and among the releases downloaded.

    Hidden folders of these are not looked into.
    """
    params = read_strict(PARAMS_PATH, RootParams)
    urls = [url for url in (params.publish.url, params.models.mirror) if url and url.startswith("file://")]
    found: dict[Path, Path] = {}
    for root in (Path(), _watched(), *(Path(url.removeprefix("file://")) for url in urls)):
        for top, names, _ in os.walk(root):
            folders = [Path(top, name) for name in names if name.startswith(".")]
            names[:] = [name for name in names if not name.startswith(".")]
            found |= {folder.resolve(): folder for folder in folders}
    for folder in sorted(found.values()):
        with suppress(FileNotFoundError, PermissionError):  # its writer ended meanwhile; or it is another user's
            if is_workshop(folder):
                yield from _unused("unfinished output", [folder], folder, "its writer was killed", limit)


def _downloads(limit: float) -> Iterator[Stale]:
    folder = downloads_dir()
    files = sorted(path for path in folder.glob("*.*") if _DOWNLOAD.fullmatch(path.name))
    for _, group in groupby(files, key=lambda path: path.stem):
        of_one = list(group)  # its lock comes first
        unfinished = of_one[-1].suffix != ".lock"
        why = "it was given up" if unfinished else "a lock that nobody holds"
        yield from _unused("download", of_one, of_one[0], why, limit)


def _releases(limit: float) -> Iterator[Stale]:
    """Find releases that were watched and that no alias points at, by their locks; what is remembered of each goes too.

    If the store does not tell where its aliases point, they are shown, and not removed.
    """
    old = [
        stale
        for lock in sorted(_watched().glob("*.lock"))
        if _RELEASE_LOCK.fullmatch(lock.name)
        for stale in _unused_release(lock, limit)
    ]
    if not old:
        return  # only then is the store asked
    try:
        store = _store()
        pointed_at = {read_alias(store, alias).release for alias in alias_names(store)}
    except DistarError as error:
        yield from (_kept(stale, f"an alias may point at it: {error}") for stale in old)
    else:
        yield from (stale for stale in old if Path(stale.place).stem not in pointed_at)


def _watched() -> Path:
    return downloads_dir() / paths.WATCHED_RELEASES


def _unused_release(lock: Path, limit: float) -> list[Stale]:
    folder = lock.with_suffix("")
    files = [path for path in (lock, lock.with_suffix(".json"), folder) if path.exists()]
    remove = partial(remove_whole, folder) if folder.exists() else lambda: None
    return _unused("download", files, lock, "no alias points at it", limit, before=remove)


def _worktrees(limit: float) -> Iterator[Stale]:
    if not in_repository():
        return
    records = {
        (path.parent / path.read_text(encoding="utf-8").strip()).resolve().parent: path.parent
        for path in Path(_git("rev-parse", "--git-common-dir").strip()).resolve().glob("worktrees/*/gitdir")
    }
    temporary = Path(tempfile.gettempdir()).resolve()
    for entry in _git("worktree", "list", "--porcelain").split("\n\n"):
        fields = {name: value for name, _, value in (line.partition(" ") for line in entry.splitlines())}
        place = Path(fields.get("worktree", ""))
        parent = place.parent
        remove = partial(
            _git, "worktree", "remove", "--force", "--force", str(place)
        )  # also of a half-made, locked one
        if "prunable" in fields:
            modified = _newest([records[place.resolve()]])
            if modified < limit:
                yield Stale("worktree", str(place), _age(modified), 0, fields["prunable"], remove)
        elif parent.parent == temporary and parent.name.startswith(paths.WORKTREE_PREFIX) and not _inhabited(parent):
            yield from _unused("worktree", [parent], parent, "the run that made it was killed", limit, before=remove)


def _unused(
    kind: Kind,
    files: Sequence[Path],
    lock: Path,
    why: str,
    limit: float,
    before: Callable[[], object] = lambda: None,
) -> list[Stale]:
    """Return files and folders that are removed together, if they are old and nobody holds their lock.

    `before` is called before they are removed, and may remove some of them.
    """

    def remove() -> None:
        with held_if_free(lock) as held:
            if not held or _newest(files) >= limit:
                raise WorkDirectoryError(f"{files[-1]} came into use meanwhile; run again when it is not")
            before()
            for path in sorted(files, key=lambda path: path == lock):  # last, or others would take a new one meanwhile
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    with suppress(FileNotFoundError):  # whoever used it removed it meanwhile
        if lock.stat().st_mtime >= limit:  # without touching the lock of what runs or just ran
            return []
        with held_if_free(lock) as held:
            if held and (modified := _newest(files)) < limit:
                size = sum(path.lstat().st_size for path in _files_of(files))
                return [Stale(kind, str(files[-1]), _age(modified), size, why, remove)]
    return []


def _newest(files: Sequence[Path]) -> float:
    """Return when the newest file was written, in seconds since the epoch; where there is none, the newest folder."""
    return max(path.lstat().st_mtime for path in list(_files_of(files)) or files)


def _files_of(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir() and not place.is_symlink():
            yield from (Path(top, name) for top, _, names in os.walk(place) for name in names)
        else:
            yield place


def _age(modified: float) -> int:
    return int((time.time() - modified) / _SECONDS_A_DAY)


def _inhabited(folder: Path) -> bool:
    """Tell whether a process works in a folder, as Linux knows; elsewhere its lock alone tells of its use."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if link.readlink().is_relative_to(folder):
                return True
    return False


def _git(*arguments: str) -> str:
    return output_of(["git", *arguments])
