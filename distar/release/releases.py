"""Releases in a store: published, found, downloaded, verified; and aliases that point at them.

A release is its manifest, `{"files": {path: {"bytes", "sha256"}}}`, and its id is the manifest's sha256. The manifest
is written last, so whoever finds one finds all of its files, whenever a publisher was stopped. An alias is moved from
one release to the next by compare-and-swap alone, and keeps the history of its moves.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from distar.atomic import written_whole
from distar.documents import Count, Sha256, Timestamp, read_json, validated
from distar.errors import ReleaseError, StorageError
from distar.fetching.downloads import with_retries
from distar.fetching.parallel import Work, in_parallel
from distar.fetching.source import FileMissingError, Pin
from distar.hashing import sha256_of
from distar.release.package import MANIFEST, read_manifest
from distar.release.storage import Document, Store, changed_file

Outcome = Literal["created", "identical"]
Files = dict[str, Pin]

_ID = re.compile("[0-9a-f]{64}")
_HEX = re.compile("[0-9a-f]{8,64}")
_MAX_TRIES = 30
_ALIAS = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
_CLOCKS_DIFFER = timedelta(minutes=15)  # between machines that move an alias; S3 refuses one that is further off
_FUTURE = timedelta(days=1)
_MAX_NAME = 255  # bytes of a file's name, as most file systems have it
_MAX_PATH = 1024


class _PinForm(TypedDict):
    bytes: Count
    sha256: Sha256


class _ManifestForm(TypedDict):
    files: dict[str, _PinForm]


_MoveForm = TypedDict("_MoveForm", {"who": str, "when": Timestamp, "from": Sha256 | None, "to": Sha256})


class _AliasForm(TypedDict):
    release: Sha256
    history: Annotated[list[_MoveForm], Field(min_length=1)]


@dataclass(frozen=True)
class Move:
    """One move of an alias: who moved it, when (ISO 8601, UTC), from which release (None: the first) to which."""

    who: str
    when: str
    from_release: str | None
    to_release: str

    def entry(self) -> dict[str, str | None]:
        """Return the move as it is written down."""
        return {"who": self.who, "when": self.when, "from": self.from_release, "to": self.to_release}


@dataclass(frozen=True)
class Alias:
    """Where an alias points, and how it came there, newest last."""

    release: str | None
    history: list[Move]


@dataclass(frozen=True)
class Problem:
    """Something of a release in a store that is not as the manifest says; sizes and hashes as texts."""

    what: str
    problem: Literal["missing", "size", "content", "unreadable"]
    expected: str
    got: str | None


def publish(store: Store, folder: Path, attach: Callable[[str], None]) -> tuple[str, Outcome]:
    """Publish a packaged folder: its files, then what `attach(release_id)` says about it, then its manifest.

    Every file is compared with the manifest on the way. What the store has already is not sent again, so a publish
    that was stopped, or is made twice, ends well.

    Raises:
        ReleaseError: a file is missing or was changed, or the store holds something else under a hash.
        StorageError: the store refuses, cannot be reached, or is full.
    """
    content = read_manifest(folder)
    release_id, name = _sha256(content), manifest_name(_sha256(content))
    standing = store.read(name)
    if standing is not None and standing.content != content:
        raise _damaged_manifest(store, release_id)
    files = parse_manifest(content, str(folder / MANIFEST))
    for path in files:
        if not (folder / path).is_file():
            raise ReleaseError(f"{folder / path} is in the manifest, but does not exist; run `dvc repro -f package`")

    def send(paths: list[str], work: Work) -> None:
        for path in paths:
            pin = files[path]
            if not store.has_blob(pin):
                store.put_blob(folder / path, pin, work)
                continue
            sha256 = sha256_of(folder / path)
            if sha256 != pin["sha256"]:
                raise changed_file(folder / path, pin, sha256)
            work.count(int(pin["bytes"]))

    in_parallel(send, list(_by_content(files).values()), f"publish to {store.url}", _num_bytes(files))
    attach(release_id)
    return release_id, "created" if store.create(name, content) else "identical"


def release_ids(store: Store) -> list[str]:
    """Return the ids of all releases in a store; what else lies beside them is none."""
    return _ids(store, "")


def alias_names(store: Store) -> list[str]:
    """Return the names of all aliases in a store, damaged ones among them."""
    return [_stem(name) for name in store.names("aliases/") if _names_an_alias(name)]


def read_aliases(store: Store) -> tuple[dict[str, Alias], dict[str, str]]:
    """Read every alias of a store: those that can be followed, and of each other entry there what is wrong with it.

    One damaged alias hides no other. If the aliases cannot be listed, that is the one problem.

    Raises:
        StorageError: the store's releases cannot be listed.
    """
    sound, problems = {}, {}
    try:
        names = store.names("aliases/")
    except StorageError as error:
        names, problems["aliases/"] = [], str(error)
    for name in names:
        alias = _stem(name)
        if not _names_an_alias(name):
            problems[name] = f"{store.url}: {name} is no alias's name; find out who writes there, and remove it"
            continue
        try:
            found = read_alias(store, alias)
        except (ReleaseError, StorageError) as error:
            problems[alias] = str(error)
        else:
            if found.release is not None:  # or it was removed meanwhile
                sound[alias] = found
    ids = {*release_ids(store)}  # listed last: whoever moved an alias meanwhile published the release before
    lost = {alias: _lost(store, found) for alias, found in sound.items() if found.release not in ids}
    return {alias: found for alias, found in sound.items() if alias not in lost}, problems | lost


def find(store: Store, text: str) -> str:
    """Return the id of a release that is named by its id, by at least eight digits of it, or by an alias.

    Raises:
        ReleaseError: there is none, or more than one; the message tells what there is.
    """
    if _HEX.fullmatch(text):
        found = _ids(store, text)
        if len(found) > 1:
            raise ReleaseError(f"{store.url}: {text} may be any of {', '.join(found)}; give more digits")
        if not found:
            raise _missing(store, f"release {text}")
        return found[0]
    release_id = read_alias(store, text).release
    if release_id is None:
        raise _missing(store, f"alias {text!r}")
    return release_id


def read_release(store: Store, release_id: str) -> Files:
    """Return the files of a release.

    Raises:
        ReleaseError: there is no such release, or its manifest is not the one that was published.
    """
    return parse_manifest(manifest_of(store, release_id), f"{store.url}: {manifest_name(release_id)}")


def manifest_of(store: Store, release_id: str) -> bytes:
    """Return a release's manifest as it is stored.

    Raises:
        ReleaseError: there is no such release, or its manifest's hash is not its id.
    """
    content = _stored_manifest(store, release_id)
    if _sha256(content) != release_id:
        raise _damaged_manifest(store, release_id)
    return content


def download(store: Store, release_id: str, folder: Path) -> None:
    """Download a release into a new folder, which appears whole or not at all; every file is checked.

    Raises:
        ReleaseError: the folder exists, or the store does not hold what the manifest says.
        StorageError: the store refuses or cannot be reached, or the folder cannot be made, or the disk is full.
    """
    if folder.exists():
        raise ReleaseError(f"{folder} exists; remove it, or name another folder")
    content = manifest_of(store, release_id)
    files = parse_manifest(content, f"{store.url}: {manifest_name(release_id)}")

    def fetch(path: str, work: Work) -> None:
        target = partial / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            problem = _problem(store, path, files[path], file.write, work)
        if problem is not None:
            raise ReleaseError(
                f"{store.url}: {path} of release {release_id}: {problem.problem}: expected {problem.expected}, "
                f"got {problem.got}; see `distar release verify`"
            )

    try:
        with written_whole(folder) as partial:
            partial.mkdir()
            in_parallel(fetch, list(files), f"download from {store.url}", _num_bytes(files))
            (partial / MANIFEST).write_bytes(content)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}; name a folder that can be made") from error


def verify(store: Store, release_id: str) -> list[Problem]:
    """Read every file of a release where it is stored and compare it with the manifest; keep nothing of it.

    Raises:
        ReleaseError: there is no such release, or its manifest cannot be understood.
    """
    content = _stored_manifest(store, release_id)
    if (got := _sha256(content)) != release_id:
        return [Problem(manifest_name(release_id), "content", release_id, got)]
    files = parse_manifest(content, manifest_name(release_id))
    groups = list(_by_content(files).values())

    def check(paths: list[str], work: Work) -> Problem | None:
        what, pin = ", ".join(paths), files[paths[0]]
        try:
            return _problem(store, what, pin, lambda _: None, work)
        except ReleaseError as error:
            return Problem(what, "unreadable", str(pin["sha256"]), str(error))

    total = sum(int(files[paths[0]]["bytes"]) for paths in groups)
    return [problem for problem in in_parallel(check, groups, f"verify in {store.url}", total) if problem]


def read_alias(store: Store, alias: str) -> Alias:
    """Return where an alias points, and its history; an alias that does not exist points nowhere.

    Raises:
        ReleaseError: the name cannot be an alias, or what is stored under it is none.
    """
    return _alias(store, alias, store.read(alias_name(alias)))


def history(store: Store, alias: str) -> list[Move]:
    """Return the moves of an alias, newest last.

    Raises:
        ReleaseError: there is no such alias.
    """
    moves = read_alias(store, alias).history
    if not moves:
        raise _missing(store, f"alias {alias!r}")
    return moves


def require_target(store: Store, alias: str) -> None:
    """Require that the release that an alias points at is in the store.

    Raises:
        ReleaseError: it is not, or the alias is damaged.
    """
    found = read_alias(store, alias)
    if found.release is not None and found.release not in _ids(store, found.release):
        raise ReleaseError(f"alias {alias} cannot be followed: {_lost(store, found)}")


def move(store: Store, alias: str, release_id: str, expected: str | None) -> None:
    """Move an alias to a release if it still points at `expected` (None: if it does not exist yet).

    Nothing is done if that is the release itself.

    Raises:
        ReleaseError: it points elsewhere; the message tells where, and who moved it when. Or there is no such release.
    """
    manifest_of(store, release_id)
    for _ in _tries():
        standing = store.read(alias_name(alias))
        now = _alias(store, alias, standing)
        if now.release != expected:
            raise ReleaseError(
                f"{store.url}: {alias} {_told(now)}, and not at {expected or 'nothing'}; it was not moved"
            )
        if now.release == release_id or _swapped(store, alias, now, standing, release_id):
            return
    raise _never_moved(store, alias)


def point(store: Store, alias: str, release_id: str) -> None:
    """Point an alias at a release, wherever it points; nothing is done if it points there already.

    Raises:
        ReleaseError: there is no such release.
    """
    manifest_of(store, release_id)
    for _ in _tries():
        standing = store.read(alias_name(alias))
        now = _alias(store, alias, standing)
        if now.release == release_id or _swapped(store, alias, now, standing, release_id):
            return
    raise _never_moved(store, alias)


def manifest_name(release_id: str) -> str:
    """Return the name of a release's manifest in a store."""
    return f"releases/{release_id}.json"


def alias_name(alias: str) -> str:
    """Return the name of an alias in a store.

    Raises:
        ReleaseError: it cannot be an alias.
    """
    if not _ALIAS.fullmatch(alias) or _HEX.fullmatch(alias):
        raise ReleaseError(
            f"{alias!r} cannot be an alias: expected letters, digits, dots, hyphens and underscores, the first a letter"
            " or a digit, and not what could be a release's id (eight hexadecimal digits or more)"
        )
    return f"aliases/{alias}.json"


def parse_manifest(content: bytes, shown_as: str) -> Files:
    """Return a manifest's files; a path that leads out of its folder is refused.

    Raises:
        ReleaseError: it is not a manifest.
    """
    document = read_json(content, shown_as, ReleaseError)
    files = validated(_ManifestForm, document, f"the manifest {shown_as}", ReleaseError)["files"]
    if not files:
        raise ReleaseError(f"{shown_as} lists no file, so it is no release's manifest; package it again")
    folders = {folder.as_posix() for path in files for folder in PurePosixPath(path).parents}
    for path, pin in files.items():
        if not _can_be_downloaded(path) or path in folders:
            raise ReleaseError(f"{shown_as} is not a manifest: got the file {path[:200]!r}: {pin}; package it again")
    return {path: {"bytes": pin["bytes"], "sha256": pin["sha256"]} for path, pin in files.items()}


def _can_be_downloaded(path: str) -> bool:
    """Say whether a path stays within its folder, and is one that file systems take."""
    parts = PurePosixPath(path).parts
    return (
        path == "/".join(parts)
        and bool(parts)
        and path.isprintable()
        and "\\" not in path
        and not {"..", "/"} & {*parts}
        and path != MANIFEST
        and all(len(part.encode()) <= _MAX_NAME for part in parts)
        and len(path.encode()) <= _MAX_PATH
    )


def _stored_manifest(store: Store, release_id: str) -> bytes:
    standing = store.read(manifest_name(release_id))
    if standing is None:
        raise _missing(store, f"release {release_id}")
    return standing.content


def _damaged_manifest(store: Store, release_id: str) -> ReleaseError:
    return ReleaseError(
        f"{store.url}: {manifest_name(release_id)} is damaged: its content's hash is not its name; find out who writes "
        "there, remove it and publish again"
    )


def _problem(store: Store, what: str, pin: Pin, write: Callable[[bytes], object], work: Work) -> Problem | None:
    """Read a blob, hand it to `write`, and say what is wrong with it; a broken connection is taken up again."""
    digest, size = hashlib.sha256(), 0

    def go_on() -> None:
        nonlocal size
        with store.open_blob(str(pin["sha256"]), size) as chunks:
            for chunk in chunks:
                write(chunk)
                digest.update(chunk)
                size += len(chunk)
                work.count(len(chunk))
                if size > int(pin["bytes"]):
                    return  # it is not the blob, however much more there is

    try:
        with_retries(go_on, work.wait, lambda: size)
    except FileMissingError:
        return Problem(what, "missing", str(pin["sha256"]), None)
    if size != pin["bytes"]:
        return Problem(what, "size", f"{pin['bytes']} bytes", f"{size} bytes")
    if digest.hexdigest() != pin["sha256"]:
        return Problem(what, "content", str(pin["sha256"]), digest.hexdigest())
    return None


def _alias(store: Store, alias: str, document: Document | None) -> Alias:
    if document is None:
        return Alias(None, [])
    shown_as, remedy = f"{store.url}: {alias_name(alias)}", "find out who wrote it, remove it and promote a release"
    try:
        form = validated(_AliasForm, read_json(document.content, shown_as, ReleaseError), shown_as, ReleaseError)
    except ReleaseError as error:
        raise ReleaseError(f"{error}; the alias is damaged: {remedy}") from None
    moves = [Move(one["who"], one["when"], one["from"], one["to"]) for one in form["history"]]
    before: list[str | None] = [None, *(one.to_release for one in moves)]
    latest = datetime.min.replace(tzinfo=UTC)
    for position, one in enumerate(moves):
        when = datetime.fromisoformat(one.when)
        if latest - when > _CLOCKS_DIFFER or when - datetime.now(UTC) > _FUTURE:
            raise ReleaseError(
                f"{shown_as} is damaged: its history was edited: move {position + 1} is of {one.when}, which is "
                f"{'before the move before it' if when < latest else 'in the future'}; {remedy}"
            )
        latest = max(when, latest)
        if one.from_release == one.to_release:
            raise ReleaseError(
                f"{shown_as} is damaged: its history was edited: move {position + 1} ends where it begins, at "
                f"{one.to_release}; {remedy}"
            )
        if one.from_release != before[position]:
            raise ReleaseError(
                f"{shown_as} is damaged: its history was edited: move {position + 1} begins at "
                f"{one.from_release or 'nothing'}, and the one before it ended at {before[position] or 'nothing'}; "
                f"{remedy}"
            )
    if form["release"] != before[-1]:
        raise ReleaseError(
            f"{shown_as} is damaged: it points at {form['release']}, and its history ends at {before[-1]}; {remedy}"
        )
    return Alias(form["release"], moves)


def _swapped(store: Store, alias: str, now: Alias, standing: Document | None, release_id: str) -> bool:
    """Move an alias from `now`, read from the document `standing`; say whether nobody was faster."""
    when = max([datetime.now(UTC), *(datetime.fromisoformat(one.when) for one in now.history)])  # clocks may differ
    moves = [*now.history, Move(_actor(), when.astimezone(UTC).isoformat(), now.release, release_id)]
    content = _json({"release": release_id, "history": [one.entry() for one in moves]})
    name = alias_name(alias)
    written = store.create(name, content) if standing is None else store.replace(name, content, standing.version)
    if written:
        return True
    after = store.read(name)  # a request whose answer was lost is repeated by the client, and then meets its own work
    return after is not None and after.content == content


def _tries() -> Iterator[int]:
    """Count tries, with longer and longer pauses between them."""
    for i in range(_MAX_TRIES):
        yield i
        time.sleep(random.uniform(0.0, 0.02 * i))


def _never_moved(store: Store, alias: str) -> StorageError:
    return StorageError(
        f"{store.url}: {alias} could not be moved in {_MAX_TRIES} tries: others move it all the time, or the store "
        "refuses conditions that hold; run again later"
    )


def _lost(store: Store, alias: Alias) -> str:
    return f"{store.url}: it points at {alias.release}, which is not in the store; promote another release"


def _told(alias: Alias) -> str:
    if alias.release is None:
        return "does not exist"
    last = alias.history[-1]
    return f"points at {alias.release} ({last.who} moved it, {last.when})"


def _missing(store: Store, what: str) -> ReleaseError:
    releases, aliases = release_ids(store), alias_names(store)
    there_is = f"it holds {len(releases)} releases (`distar release list`) and {len(aliases)} aliases"
    return ReleaseError(f"{store.url}: there is no {what}; {there_is}{': ' * bool(aliases)}{', '.join(aliases)}")


def _actor() -> str:
    named = os.environ.get("DISTAR_ACTOR")
    if named:
        return named
    try:
        user = getpass.getuser()
    except KeyError:  # a container may run as a user that its system does not know
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _ids(store: Store, beginning: str) -> list[str]:
    names = store.names(f"releases/{beginning}")
    return [_stem(name) for name in names if _ID.fullmatch(_stem(name)) and name == manifest_name(_stem(name))]


def _names_an_alias(name: str) -> bool:
    alias = _stem(name)
    return bool(_ALIAS.fullmatch(alias)) and not _HEX.fullmatch(alias) and name == f"aliases/{alias}.json"


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


def _by_content(files: Files) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path, pin in files.items():
        groups.setdefault(str(pin["sha256"]), []).append(path)
    return groups


def _num_bytes(files: Files) -> int:
    return sum(int(pin["bytes"]) for pin in files.values())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
