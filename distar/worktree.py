"""A worktree of its own for a run, so that the user's workspace is never touched; what git and DVC print."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distar.errors import StorageError
from distar.git import environment, lfs_sha256, run_git
from distar.locking import held_if_free
from distar.paths import WORKTREE_PREFIX
from distar.processes import ended_by_sigterm

# -P: in a worktree of an old revision it is still this one
DVC = (sys.executable, "-P", "-m", "distar.dvc")
# Attributes with which git writes other bytes than were committed.
_CHANGES_FILES = re.compile(r"(?m)^[^#\n]*\s(eol=crlf|ident|working-tree-encoding=\S+)(?=\s|$)")
_POINTER_BYTES = 1024  # git-lfs's own limit of a pointer


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check a revision out in a temporary folder, sharing its DVC cache; yield the project's folder, and remove all.

    All files are there, as they were committed: no hook, no filter and no attributes of the user's apply. The folder
    around the worktree is locked (flock) until it is gone: one that is not belongs to a run that was killed. Whatever
    ends the body, or fails before it, SIGTERM and Ctrl-C too, takes the worktree back.

    Raises:
        StorageError: git or DVC refuses: there is no such revision, the disk is full, the clone is another user's; or
            the clone has attributes of its own that change files.
    """
    _refuse_own_attributes()
    cache = output_of([*DVC, "cache", "dir"])
    below = output_of(["git", "rev-parse", "--show-prefix"])  # of a project that is a folder of its repository
    with (
        ended_by_sigterm(),
        tempfile.TemporaryDirectory(prefix=WORKTREE_PREFIX) as parent,
        held_if_free(Path(parent)),
    ):
        top = Path(parent).resolve() / "project"
        try:
            output_of(["git", "worktree", "add", "--no-checkout", "--detach", str(top), revision])
            output_of(["git", "reset", "--quiet", "--hard"], top)
            folder = top / below
            if not (folder / ".dvc").is_dir():
                raise StorageError(f"{revision} has no {below}.dvc; commit it (`git add .dvc`), or name a later commit")
            _put_large_files(folder)
            _share_cache(folder, Path(cache))
            yield folder
        finally:
            try:
                _remove(top)
            except BaseException:  # such as a signal meanwhile, which is not to keep it from being removed
                _remove(top)
                raise


def _remove(top: Path) -> None:
    """Remove a worktree and have git forget it, as far as it was made."""
    shutil.rmtree(top, ignore_errors=True)  # first: of one that is half removed git says that it is none
    listed = output_of(["git", "worktree", "list", "--porcelain"])
    if f"\nworktree {top}\n" in f"\n{listed}\n":  # of a path that may hold line ends
        # forced twice: git locks a worktree while it makes it, and was perhaps ended then
        output_of(["git", "worktree", "remove", "--force", "--force", str(top)])


def _refuse_own_attributes() -> None:
    """Refuse the clone's own attributes that change files: git has no setting that leaves them out."""
    path = Path(output_of(["git", "rev-parse", "--git-path", "info/attributes"]))
    own = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if found := _CHANGES_FILES.search(own):
        raise StorageError(
            f"{path} has {found[1]}, so that a worktree would differ from what was committed; move that to "
            ".gitattributes and commit it, or remove it"
        )


def _share_cache(folder: Path, cache: Path) -> None:
    """Have a worktree's DVC use a cache.

    It is linked to DVC's usual place, since DVC writes no path with letters beyond ASCII into its settings. These
    override what was committed, and DVC stages nothing in git.
    """
    cache.mkdir(parents=True, exist_ok=True)  # or a link to it would be nothing that DVC can fill
    dvc = folder / ".dvc"
    (dvc / "cache").symlink_to(cache.absolute(), target_is_directory=True)
    (dvc / "config.local").write_text("[core]\n    autostage = false\n[cache]\n    dir = cache\n", encoding="utf-8")


def _put_large_files(folder: Path) -> None:
    """Put the files that git-lfs keeps here in the place of their pointers, which is all that was committed of them.

    One that is not here stays a pointer, as it does in a clone without git-lfs. Git is told not to look at the others,
    or they would differ from what was committed.
    """
    names = output_of(["git", "ls-files", "-z", "--", ":(attr:filter=lfs)"], folder).split("\0")
    pointers = [name for name in names if (folder / name).is_file() and (folder / name).stat().st_size < _POINTER_BYTES]
    if not pointers:
        return
    configured = run_git("config", "--type=path", "--get", "lfs.storage", folder=folder).stdout.decode().rstrip("\n")
    shared = output_of(["git", "rev-parse", "--path-format=absolute", "--git-common-dir"], folder)
    objects = Path(shared, configured or "lfs", "objects")
    placed = []
    for name in pointers:
        sha256 = lfs_sha256((folder / name).read_bytes())
        if sha256 and (stored := objects / sha256[:2] / sha256[2:4] / sha256).is_file():
            shutil.copyfile(stored, folder / name)
            placed.append(name)
    told = run_git("update-index", "--skip-worktree", "-z", "--stdin", folder=folder, stdin="\0".join(placed).encode())
    if told.returncode:
        raise StorageError(f"git cannot leave out what git-lfs keeps: {told.stderr.decode(errors='replace').strip()}")


def output_of(command: Sequence[str], folder: Path | None = None) -> str:
    """Run git or DVC and return what it prints.

    Raises:
        StorageError: it is not installed, or refuses; the message holds its own words.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, check=True,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
        return done.stdout.rstrip("\n")
    except FileNotFoundError as error:
        raise StorageError(f"{command[0]} is not installed, or {folder} is gone; `{shlex.join(command)}`") from error
    except subprocess.CalledProcessError as error:
        told = error.stderr.strip() or error.stdout.strip() or f"it ended with status {error.returncode}"
        raise StorageError(f"`{shlex.join(command)}` failed: {told}") from error
