"""`distar audit verify`: hash what is stored again, and hold what is stated against signatures, git and the release."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ruamel.yaml import YAML
from securesystemslib.signer import Key

from distar.audit.evidence import Evidence, gather
from distar.audit.origin import find_origin, parameter_differences
from distar.audit.page import Page, Rows, Status
from distar.audit.repository import Repository
from distar.errors import ReleaseError
from distar.lineage.provenance import MANIFEST_SUBJECT
from distar.release import releases
from distar.release.signing import Finding, check_signatures
from distar.release.storage import Store
from distar.secrets import without_secrets

Outcome = Literal["holds", "gap", "note"]

_STATUS: dict[Outcome, Status] = {"holds": "good", "gap": "bad", "note": "neutral"}


@dataclass(frozen=True)
class Check:
    """One thing that was checked: it holds, it is a gap, or it is worth a note."""

    what: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Verified:
    """What a verification found."""

    release: str
    store: str
    checks: list[Check]

    @property
    def gaps(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.outcome == "gap"]


def verify(store: Store, text: str, repository: Repository, trusted: Sequence[Key]) -> Verified:
    """Verify a release; every gap is named, and the first never hides the others.

    With `trusted` keys, a release that none of them signed is a gap; without, that it is unsigned is a note.

    Raises:
        ReleaseError: there is no such release.
    """
    try:
        evidence = gather(store, text)
    except ReleaseError:
        release = releases.find(store, text)  # there is one, so what failed is its manifest
        problems = releases.verify(store, release)
        return Verified(release, store.url, [_blob_check(problem) for problem in problems])
    checks = [
        *_blobs(evidence),
        *_signatures(evidence, trusted),
        *(_statement(evidence, repository) if evidence.attested else []),
    ]
    return Verified(evidence.release, store.url, checks)


def page_of(verified: Verified) -> Page:
    """Lay out what a verification found."""
    gaps = len(verified.gaps)
    lead = "Everything holds." if not gaps else f"{gaps} gap{'s' * (gaps > 1)}."
    rows = [(check.what, check.detail) for check in verified.checks]
    statuses: list[Status] = [_STATUS[check.outcome] for check in verified.checks]
    return Page(
        f"Release {verified.release[:16]}",
        f"In {verified.store}. {lead}",
        [Rows("Checks", ("what", "found"), rows, statuses)],
    )


def _blobs(evidence: Evidence) -> Iterator[Check]:
    problems = releases.verify(evidence.store, evidence.release)
    yield from map(_blob_check, problems)
    if not problems:
        size = sum(int(pin["bytes"]) for pin in evidence.files.values())
        yield Check("files", "holds", f"{len(evidence.files)} files, {size} bytes, hashed again: as the manifest says")


def _blob_check(problem: releases.Problem) -> Check:
    return Check(
        f"file {problem.what}", "gap", f"{problem.problem}: expected {problem.expected}, got {problem.got or 'nothing'}"
    )


def _signatures(evidence: Evidence, trusted: Sequence[Key]) -> Iterator[Check]:
    findings = check_signatures(evidence.store, evidence.release, evidence.files, trusted)
    if not any(finding.attestation.endswith(".intoto.json") for finding in findings):
        yield Check("provenance", "gap", "nothing is stated of how the release was made; publish it again")
    for finding in findings:
        yield _signature(finding, bool(trusted))
    if trusted and not any(finding.status == "valid" for finding in findings):
        yield Check("signature", "gap", "none of the trusted keys signed this release")


def _signature(finding: Finding, keys_are_trusted: bool) -> Check:
    kind = "provenance" if finding.attestation.endswith(".intoto.json") else "model signature"
    by = f" by {finding.keyid}" if finding.keyid else ""
    match finding.status:
        case "valid":
            return Check(f"{kind}{by}", "holds", "signed by a trusted key")
        case "unsigned":
            detail = "not signed: whoever may write to the store could have put it there"
            return Check(kind, "gap" if keys_are_trusted else "note", detail)
        case "unknown key":
            detail = (
                finding.detail if keys_are_trusted else "no trusted keys are given, so the signature was not checked"
            )
            return Check(f"{kind}{by}", "note", detail)
        case _:
            return Check(f"{kind}{by}", "gap", f"{finding.status}: {finding.detail} ({finding.attestation})")


def _statement(evidence: Evidence, repository: Repository) -> Iterator[Check]:
    yield from _subjects(evidence)
    yield from _parameters(evidence)
    for stage in evidence.stated.unrecorded:
        yield Check(
            f"record of {stage}", "gap", "there is none: the stage ran elsewhere, and its record was not brought"
        )
    yield from _origin(evidence, repository)


def _subjects(evidence: Evidence) -> Iterator[Check]:
    subjects = evidence.stated.files
    expected = {MANIFEST_SUBJECT: evidence.release} | {name: pin["sha256"] for name, pin in evidence.files.items()}
    if subjects == expected:
        yield Check("subject", "holds", "the provenance is about this very release")
    for name in sorted(subjects.keys() | expected.keys()):
        if subjects.get(name) != expected.get(name):
            detail = f"the provenance says {subjects.get(name)}, the release has {expected.get(name)}"
            yield Check(f"subject {name}", "gap", detail)


def _parameters(evidence: Evidence) -> Iterator[Check]:
    """Compare what is stated with the release's params.yaml, with each run's own and with dvc.lock's."""
    stated = evidence.stated.all_parameters
    profile = f"profiles/{evidence.stated.profile}.yaml"
    gaps = []
    try:
        packaged = without_secrets(YAML(typ="safe").load(evidence.read("params.yaml")))
    except ReleaseError:
        packaged = stated  # that the file is damaged is said already
    for name, mine, other in parameter_differences(stated, packaged):
        gaps.append(("the release's params.yaml", name, mine, other))
    sources = {f"the run of {run['stage']}": run["parameters"] for run in evidence.stated.runs}
    sources |= {f"dvc.lock, {name}": stage.get("params", {}) for name, stage in evidence.stated.dvc_lock.items()}
    for source, files in sources.items():
        for path, values in files.items():
            for key, value in values.items():
                if path in {"params.yaml", profile} and key.split(".")[0] in stated:
                    for name, mine, other in parameter_differences(_at(stated, key), value, key):
                        gaps.append((source, name, mine, other))
    for source, name, mine, other in gaps:
        detail = f"the provenance says {json.dumps(mine)}, {source} says {json.dumps(other)}"
        yield Check(f"parameter {name}", "gap", detail)
    if not gaps:
        yield Check("parameters", "holds", "the release, its runs and dvc.lock agree")


def _origin(evidence: Evidence, repository: Repository) -> Iterator[Check]:
    origin = find_origin(evidence.stated, repository)
    for commit in origin.missing:
        yield Check("commit", "gap", f"{commit} is not in this repository; fetch it, or ask who has it")
    if origin.commit is None:
        if not origin.missing:
            yield Check("commit", "gap", "the runs were not in git, so nothing tells which code made this release")
        return
    if not origin.differences:
        yield Check("commit", "holds", f"{origin.commit} has the code, parameters and locks of all runs")
    for one in origin.differences:
        yield Check(
            f"commit: {one.what}", "gap", f"the run had {one.run}, commit {origin.commit[:12]} has {one.commit}"
        )
    if origin.recorded_by:
        yield Check("dvc.lock", "holds", f"commit {origin.recorded_by[0]} records this release")
    else:
        yield Check("dvc.lock", "gap", "no commit's dvc.lock records this release; commit dvc.lock after the run")


def _at(parameters: dict[str, Any], key: str) -> Any:
    place: Any = parameters
    for part in key.split("."):
        place = place[part] if isinstance(place, dict) and part in place else None
    return place
