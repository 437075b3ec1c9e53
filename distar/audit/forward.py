"""`distar audit forward`: everything that was made from something, for a recall."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from distar.audit.evidence import Evidence, gather
from distar.audit.page import Note, Page, Rows
from distar.audit.repository import Repository
from distar.errors import ParameterError, ReleaseError
from distar.release.releases import release_ids
from distar.release.storage import Store

Role = Literal["prompts", "reference", "reward"]

_ROLES: dict[Role, tuple[str, ...]] = {
    "prompts": ("prompts",),
    "reference": ("reference", "initial_generator"),
    "reward": ("rewards", "fid"),
}
_HASH = re.compile(r"[0-9a-f]{8,64}(\.dir)?")
_STAGES: dict[Role, str] = {"prompts": "prompts", "reference": "reference", "reward": "rewards"}


@dataclass(frozen=True)
class MadeRelease:
    """A release that was made from it, by which of its materials."""

    release: str
    aliases: list[str]
    finished: str
    materials: list[dict[str, Any]]


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
    unknown: list[str]
    """Releases of which nothing is stated, or that are damaged, so that they may have been made from it too."""


def forward(store: Store, role: Role, sha256: str, repository: Repository) -> Made:
    """Find the releases and the commits that were made from what has this hash, or begins with it.

    A hash is the sha256 of a file, or of a prompt set, as `audit show` tells it; or DVC's md5 of an output. Commits are
    found by DVC's hash of the stage's output, which releases made from the same content tell, and `git log -S` finds.

    Raises:
        ParameterError: it is no hash: a misspelt one would tell that nothing is affected.
    """
    if not _HASH.fullmatch(sha256):
        raise ParameterError(
            f"--{role}: got {sha256!r}, expected a hash, or at least eight digits of one: 0-9 and a-f "
            "(`distar audit show` tells them)"
        )
    everything = {release: _readable(store, release) for release in release_ids(store)}
    stated = [evidence for evidence in everything.values() if evidence]
    unknown = [release for release, evidence in everything.items() if not evidence]
    made = [(evidence, _materials(evidence, role, sha256)) for evidence in stated]
    hit = [(evidence, materials) for evidence, materials in made if materials or sha256 in _md5s(evidence, role)]
    md5s = dict.fromkeys([*(md5 for evidence, _ in hit for md5 in _md5s(evidence, role)), sha256])
    return Made(
        role,
        sha256,
        store.url,
        [
            MadeRelease(evidence.release, evidence.aliases, evidence.stated.ended, materials)
            for evidence, materials in sorted(hit, key=lambda pair: pair[0].stated.ended)
        ],
        [
            MadeCommit(commit, repository.refs_of(commit), md5)
            for md5 in md5s
            for commit in repository.commits_with(md5)
        ],
        unknown,
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
        )
        for one in made.releases
    ]
    commits = [(one.commit, ", ".join(one.refs), one.md5) for one in made.commits]
    return Page(
        f"Made from {made.hash}",
        f"As {shown}. Releases in {made.store}: {len(releases)}; commits in this repository: {len(commits)}.",
        [
            Rows("Releases", ("release", "aliases", "finished", "by"), releases),
            Rows("Commits whose dvc.lock has it", ("commit", "on", "DVC's hash"), commits),
            *(
                [Note(f"Nothing is stated of these, so they may be too: {', '.join(made.unknown)}.")]
                * bool(made.unknown)
            ),
        ],
    )


def _readable(store: Store, release: str) -> Evidence | None:
    """Return what is stated of a release; a recall must neither fail for a damaged one nor leave it out."""
    try:
        evidence = gather(store, release)
    except ReleaseError:
        return None
    return evidence if evidence.attested else None


def _materials(evidence: Evidence, role: Role, sha256: str) -> list[dict[str, Any]]:
    return [
        entry
        for entry in evidence.stated.materials
        if entry["name"].split("/")[0] in _ROLES[role] and entry["digest"].get("sha256", "").startswith(sha256)
    ]


def _md5s(evidence: Evidence, role: Role) -> list[str]:
    """Return DVC's hashes of what the stage of this role gave, as the release's dvc.lock has them."""
    return [
        out["md5"] for out in evidence.stated.dvc_lock.get(_STAGES[role], {}).get("outs", ()) if out.get("nfiles", 1)
    ]
