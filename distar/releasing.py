"""`distar release`: releases in a store, listed, downloaded, promoted and verified; see docs/releases.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.filesize import decimal as bytes_text
from rich.table import Table

from distar.credentials import refuse_more_than_an_address
from distar.documents import read_json
from distar.errors import ReleaseError
from distar.fetching.downloads import downloads_dir
from distar.fetching.parallel import NUM_THREADS
from distar.lineage.provenance import PREDICATE_TYPE
from distar.lineage.stated import Stated, commit_of
from distar.locking import wait_for_lock
from distar.paths import WATCHED_RELEASES
from distar.release.releases import (
    Move,
    Problem,
    download,
    find,
    move,
    read_alias,
    read_aliases,
    read_release,
    release_ids,
    verify,
)
from distar.release.signing import open_attestation
from distar.release.storage import Store, open_store
from distar.shared_params import load_shared
from distar.text import MOST_ROWS, more_told, plain


@dataclass(frozen=True)
class Listed:
    """A release of a store; one whose manifest is damaged has a problem instead of figures."""

    release: str
    num_files: int | None
    num_bytes: int | None
    aliases: list[str]
    problem: str | None


@dataclass(frozen=True)
class Listing:
    """The releases of a store, and what is wrong with each alias that cannot be followed."""

    releases: list[Listed]
    alias_problems: dict[str, str]


@dataclass(frozen=True)
class Promoted:
    """Where an alias was (None: nowhere), and where it is now."""

    alias: str
    before: str | None
    now: str


@dataclass(frozen=True)
class DescribedStatement:
    """What a statement says, in a line: who signs it should know; `keys` claim to have signed it already."""

    name: str
    kind: str
    summary: str
    keys: list[str]


@dataclass(frozen=True)
class Verified:
    """What a check of a stored release found; a damaged alias may have pointed at it."""

    release: str
    problems: list[Problem]
    alias_problems: dict[str, str]


def chosen_store(url: str | None) -> Store:
    """Open the store at a URL, in the S3 that the environment names; or else that of params.yaml; to read from it.

    Raises:
        ParameterError: params.yaml is wrong, or the URL holds credentials.
        ReleaseError: the URL is not understood, or there is no such store.
        StorageError: the system does not tell whether there is.
    """
    if url is not None:
        refuse_more_than_an_address(url, "--store")
        store = open_store(url)
    else:
        params = load_shared().publish
        store = open_store(params.url, params.endpoint_url)
    store.require()
    return store


@contextmanager
def at_hand(store: Store, release_id: str) -> Iterator[Path]:
    """Yield a release's folder on this machine, downloaded unless an earlier call did; one caller at a time has it.

    Its lock is held meanwhile, so that nobody removes it, or downloads it too.

    Raises:
        ReleaseError: there is no such release, or the store does not hold what its manifest says.
        StorageError: the store refuses or cannot be reached, or the disk is full.
    """
    folder = (downloads_dir() / WATCHED_RELEASES / release_id).absolute()
    with wait_for_lock(folder.with_suffix(".lock"), time.sleep):
        if not folder.exists():
            download(store, release_id, folder)
        yield folder


def list_releases(store: Store) -> Listing:
    """Return every release of a store, the aliases that point at it, and the aliases that are damaged."""
    sound, problems = read_aliases(store)
    with ThreadPoolExecutor(NUM_THREADS) as pool:

        def listed(release_id: str) -> Listed:
            names = [name for name, alias in sound.items() if alias.release == release_id]
            try:
                files = read_release(store, release_id)
            except ReleaseError as error:
                return Listed(release_id, None, None, names, str(error))
            return Listed(release_id, len(files), sum(int(pin["bytes"]) for pin in files.values()), names, None)

        releases = list(pool.map(listed, release_ids(store)))
    return Listing(releases, problems)


def promote(store: Store, release: str, alias: str, expect: str | None) -> Promoted:
    """Move an alias to a release from `expect` ("none": it must not exist), or from wherever it is seen to point.

    Raises:
        ReleaseError: there is no such release, or the alias points elsewhere, now or by the time it is to be moved.
    """
    release_id, points_at = find(store, release), read_alias(store, alias).release
    before = points_at if expect is None else None if expect == "none" else find(store, expect)
    if not points_at == before == release_id:
        move(store, alias, release_id, before)
    return Promoted(alias, before, release_id)


def verified(store: Store, release: str) -> Verified:
    """Check a stored release.

    Raises:
        ReleaseError: there is none.
    """
    release_id = find(store, release)
    return Verified(release_id, verify(store, release_id), read_aliases(store)[1])


def described_statement(store: Store, name: str) -> DescribedStatement:
    """Describe a statement that is attached to a release.

    Raises:
        ReleaseError: it is to say how a release was made, and cannot be read.
        SigningError: it is damaged.
    """
    envelope = open_attestation(store, name)
    statement = read_json(envelope.payload, name, ReleaseError)
    kind = statement.get("predicateType") if isinstance(statement, dict) else None
    summary = "of another kind than distar states; read it before you sign it"
    if kind == PREDICATE_TYPE:
        stated = Stated.read(statement)
        commits = dict.fromkeys(commit[:12] for run in stated.runs if (commit := commit_of(run)))
        summary = (
            f"release {stated.release_id[:16]}, profile {stated.profile}, seed {stated.seed}; {len(stated.runs)} runs, "
            f"the last ended {stated.ended[:19] or 'never'}; commits: {', '.join(commits) or 'none'}; "
            f"not recorded: {', '.join(stated.unrecorded) or 'none'}"
        )
    return DescribedStatement(name, str(kind), summary, list(envelope.signatures))


def statements_table(statements: Sequence[DescribedStatement]) -> RenderableType:
    """Show the statements that will be signed."""
    rows = Table("statement", "kind", "says", "signed by", title="to be signed")
    for one in statements:
        keys = ", ".join(key[:16] for key in one.keys) or "nobody"
        rows.add_row(*map(plain, (one.name.rpartition("/")[2][:16], one.kind, one.summary, keys)))
    return rows if statements else "no statement is attached; the folder alone will be signed"


def releases_table(listing: Listing) -> RenderableType:
    """Show the releases of a store."""
    rows = Table("release", "files", "size", "aliases")
    for one in listing.releases[:MOST_ROWS]:
        figures = [one.problem or "", ""] if one.num_bytes is None else [str(one.num_files), bytes_text(one.num_bytes)]
        rows.add_row(*map(plain, (one.release[:16], *figures, ", ".join(one.aliases))))
    shown: RenderableType = rows if listing.releases else "there is no release yet"
    return Group(shown, *more_told(len(listing.releases)), *alias_problems(listing.alias_problems))


def promoted_text(promoted: Promoted) -> RenderableType:
    """Tell how an alias was moved."""
    if promoted.before == promoted.now:
        return plain(f"{promoted.alias} points at {promoted.now} already")
    return plain(f"{promoted.alias}: {promoted.before or 'nowhere'} -> {promoted.now}")


def history_table(moves: Sequence[Move]) -> RenderableType:
    """Show the moves of an alias, newest last."""
    rows = Table("when", "who", "from", "to")
    for one in moves[-MOST_ROWS:]:
        rows.add_row(*map(plain, (one.when[:19], one.who, (one.from_release or "-")[:16], one.to_release[:16])))
    return Group(*more_told(len(moves)), rows)


def verified_table(found: Verified) -> RenderableType:
    """Show what a check of a stored release found."""
    aliases = list(alias_problems(found.alias_problems))
    if not found.problems:
        sound = f"release {found.release}: every file is there, as its manifest says"
        return Group(sound, *aliases) if aliases else sound
    rows = Table("file", "problem", "expected", "found")
    for one in found.problems[:MOST_ROWS]:
        rows.add_row(*map(plain, (one.what, one.problem, one.expected, one.got or "-")))
    remedy = "Remove the damaged blobs, and publish the release again from its folder."
    return Group(
        rows,
        *more_told(len(found.problems)),
        f"release {found.release}: {len(found.problems)} problems. {remedy}",
        *aliases,
    )


def alias_problems(problems: Mapping[str, str]) -> Iterator[RenderableType]:
    """Tell of each alias that cannot be followed."""
    for name, problem in problems.items():
        yield plain(f"alias {name} cannot be followed: {problem}")
