"""`distar audit forward`: everything that was made from something, for a recall."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from securesystemslib.signer import Key

from distar import paths
from distar.attesting import model_materials
from distar.audit.evidence import Attested, Statements, Trust, gather_statements
from distar.audit.outputs import Stage, outputs_of
from distar.audit.page import Note, Page, Rows
from distar.audit.repository import Repository
from distar.documents import read_json, validated
from distar.errors import DistarError, ParameterError, ReleaseError, StorageError
from distar.params import load_params
from distar.release.releases import read_aliases, read_release, release_ids
from distar.release.signing import stated_releases
from distar.release.storage import Store
from distar.shared_params import PROFILES_DIR

Role = Literal["prompts", "reference", "reward"]

_ROLES: dict[Role, tuple[str, ...]] = {
    "prompts": ("prompts",),
    "reference": ("reference", "initial_generator"),
    "reward": ("rewards", "fid"),
}
_HASH = re.compile(r"[0-9a-f]{8,64}(\.dir)?")
_STAGES: dict[Role, Stage] = {"prompts": "prompts", "reference": "reference", "reward": "rewards"}
_HOW: dict[Trust, str] = {
    "trusted": "a trusted key signed it",
    "untrusted": "untrusted: no trusted key signed it",
    "not checked": "signed; no trusted key is given",
    "unsigned": "not signed",
}


@dataclass(frozen=True)
class MadeRelease:
    """A release that was made from it, by which of its materials, and what the statement that says so is worth."""

    release: str
    aliases: list[str]
    finished: str
    materials: list[dict[str, Any]]
    trust: Trust


@dataclass(frozen=True)
class MadeCommit:
    """A commit, and the branches, tags and experiments with it, whose dvc.lock has it."""

    commit: str
    refs: list[str]
    md5: str


@dataclass(frozen=True)
class Made:
    """Everything that was made from what a hash names."""

    role: Role
    hash: str
    store: str
    releases: list[MadeRelease]
    commits: list[MadeCommit]
    unknown: dict[str, str]
    """Releases that may have been made from it too, and why nobody can tell."""
    unknown_commits: dict[str, str]
    """Commits whose dvc.lock may have it too, and why nobody can tell."""


def forward(store: Store, role: Role, sha256: str, repository: Repository, trusted: Sequence[Key] = ()) -> Made:
    """Find the releases and the commits that were made from what has this hash, or begins with it.

    A hash is the sha256 of a file, or of a prompt set, as `audit show` tells it; or DVC's md5 of an output. Commits are
    found by DVC's hash of the stage's output, which releases made from the same content tell, and the project's own
    lock files and cache; `git log -S` finds it. Every statement counts, whoever signed it: a recall that warns of too
    much is better than one that misses.

    Raises:
        ParameterError: it is no hash, or nothing knows it: a misspelt one would tell that nothing is affected. Or it is
            known, and of what may be made from it nothing can be told.
    """
    if not _HASH.fullmatch(sha256):
        raise ParameterError(
            f"--{role}: got {sha256!r}, expected a hash, or at least eight digits of one: 0-9 and a-f "
            "(`distar audit show` tells them)"
        )
    aliases, _ = read_aliases(store)
    releases, unknown, known = [], {}, set(_pinned())
    md5s: dict[str, None] = {}
    told: dict[str, None] = {}  # outputs whose content a statement that counts tells
    here = dict.fromkeys(release_ids(store))
    for release in dict.fromkeys([*here, *_stated(store, unknown)]):
        statements, doubt = _statements(store, release, trusted)
        if doubt:
            unknown[release] = doubt
        hits = []
        for attested in statements.readable:
            known |= {(entry["name"], digest) for entry in attested.stated.materials for digest in _sha256(entry)}
            known |= {(_STAGES[one], md5) for one in _STAGES for md5 in _md5s(attested, one)}
            materials, outputs = _materials(attested, role, sha256), _md5s(attested, role)
            if not trusted or attested.trust == "trusted":
                told |= dict.fromkeys(outputs)
            if materials or any(md5.startswith(sha256) for md5 in outputs):
                hits.append((attested, materials))
                md5s |= dict.fromkeys(outputs)
        if hits and release in here:
            best, materials = hits[0]
            pointing = [name for name, alias in aliases.items() if alias.release == release]
            releases.append(MadeRelease(release, pointing, best.stated.ended, materials, best.trust))
            unknown.pop(release, None)
    held = outputs_of(_STAGES[role], repository)
    for md5, contents in held.contents.items():
        known |= {*contents.items(), (_STAGES[role], md5)}
        if any(digest.startswith(sha256) for digest in contents.values()):
            md5s[md5] = None
    unknown_commits = {commit: why for commit, (outs, why) in held.unclear.items() if not outs or {*outs} - told.keys()}
    found = repository.commits_with_any(list(dict.fromkeys([*md5s, sha256])))
    commits = [MadeCommit(one, repository.refs_of(one), md5) for md5, those in found.items() for one in those]
    for made in commits:
        unknown_commits.pop(made.commit, None)
    is_known = any(
        digest.startswith(sha256) for name, digest in known if name.split("/")[0] in (*_ROLES[role], _STAGES[role])
    )
    if not releases and not commits and is_known and unknown_commits:
        raise ParameterError(
            f"--{role}: {sha256} is known here, and no release in {store.url} was made from it; commits were not "
            f"searched: {_listed(unknown_commits)}"
        )
    if not releases and not commits and not is_known:
        raise ParameterError(_unknown_hash(store, role, sha256, known, {**unknown, **unknown_commits}))
    return Made(
        role, sha256, store.url, sorted(releases, key=lambda one: one.finished), commits, unknown, unknown_commits
    )


def page_of(made: Made) -> Page:
    """Lay out what was made."""
    shown = {"prompts": "prompts", "reference": "reference or initial generator", "reward": "reward"}[made.role]
    releases = [
        (
            one.release,
            ", ".join(one.aliases),
            one.finished[:19],
            ", ".join(m["name"] for m in one.materials) or "all of it",
            _HOW[one.trust],
        )
        for one in made.releases
    ]
    commits = [(one.commit, ", ".join(one.refs), one.md5) for one in made.commits]
    return Page(
        f"Made from {made.hash}",
        f"As {shown}. Releases in {made.store}: {len(releases)}; commits in this repository: {len(commits)}.",
        [
            Rows("Releases", ("release", "aliases", "finished", "by", "stated"), releases),
            Rows("Commits whose dvc.lock has it", ("commit", "on", "DVC's hash"), commits),
            *([Note(f"These may be too: {_listed(made.unknown)}.")] * bool(made.unknown)),
            *([Note(f"Commits were not searched: {_listed(made.unknown_commits)}.")] * bool(made.unknown_commits)),
        ],
    )


def _listed(unknown: dict[str, str]) -> str:
    return "; ".join(f"{one} ({why})" for one, why in unknown.items())


def _stated(store: Store, unknown: dict[str, str]) -> list[str]:
    """Return the ids of which something is stated; if they cannot be listed, say so among what is `unknown`."""
    try:
        return stated_releases(store)
    except StorageError as error:
        unknown["attestations/"] = str(error)
        return []


def _statements(store: Store, release: str, trusted: Sequence[Key]) -> tuple[Statements, str]:
    """Return what is stated of a release, and why that may not be all: a recall leaves no damaged one out."""
    doubt = ""
    try:
        files = read_release(store, release)
    except ReleaseError:
        files, doubt = {}, "its manifest is damaged, or gone"
    statements = gather_statements(store, release, files, trusted)
    if any(not one.other_release for one in statements.unreadable):
        doubt = "a statement of it is damaged"
    elif statements.unreadable and not statements.readable:
        doubt = "what stands for a statement of it is about another release"
    elif not statements.readable:
        doubt = "nothing is stated of it"
    elif trusted and all(one.trust != "trusted" for one in statements.readable):
        doubt = doubt or "no trusted key signed what is stated of it"
    return statements, doubt


def _materials(attested: Attested, role: Role, sha256: str) -> list[dict[str, Any]]:
    return [
        entry
        for entry in attested.stated.materials
        if entry["name"].split("/")[0] in _ROLES[role] and any(one.startswith(sha256) for one in _sha256(entry))
    ]


def _sha256(entry: dict[str, Any]) -> list[str]:
    return [entry["digest"]["sha256"]] if "sha256" in entry["digest"] else []


def _md5s(attested: Attested, role: Role) -> list[str]:
    """Return DVC's hashes of what the stage of this role gave, as the release's dvc.lock has them."""
    outs = attested.stated.dvc_lock.get(_STAGES[role], {}).get("outs", ())
    return [out["md5"] for out in outs if out.get("nfiles", 1) and "md5" in out]


def _pinned() -> Iterator[tuple[str, str]]:
    """Yield what this project has, from which perhaps no release was made yet: its models' files and prompt sets.

    It only helps to tell a misspelt hash from one without consequences, so what cannot be read is left out.
    """
    for path in sorted(PROFILES_DIR.glob("*.yaml")):
        with suppress(DistarError):
            yield from ((one.name, one.sha256) for one in model_materials(load_params(profile=path.stem)))
    if paths.PROMPTS_CARD.is_file():
        with suppress(DistarError):
            card = read_json(paths.PROMPTS_CARD.read_bytes(), str(paths.PROMPTS_CARD), ReleaseError)
            sets = validated(dict[str, dict[str, Any]], card, str(paths.PROMPTS_CARD), ReleaseError)
            yield from ((f"prompts/{part}", str(entry.get("sha256"))) for part, entry in sets.items())


def _unknown_hash(store: Store, role: Role, sha256: str, known: set[tuple[str, str]], unknown: dict[str, str]) -> str:
    digests = {digest: name for name, digest in sorted(known, reverse=True)}
    others = [f"{digest} ({name})" for digest, name in digests.items() if digest.startswith(sha256)]
    beginnings = {digest[: len(sha256)]: digest for digest in digests}
    near = [beginnings[one] for one in difflib.get_close_matches(sha256, beginnings, n=3, cutoff=0.75)]
    told = [f"--{role}: nothing here knows {sha256}: no release in {store.url}, no commit's dvc.lock, no lock file"]
    if others:
        told.append(f"it is known in another role: {'; '.join(others[:3])}")
    elif near:
        told.append(f"near it are {'; '.join(f'{digest} ({digests[digest]})' for digest in near)}")
    told.append("check it against `distar audit show`")
    if unknown:
        told.append(f"{len(unknown)} releases or commits may have been made from it all the same: {_listed(unknown)}")
    return "; ".join(told)
