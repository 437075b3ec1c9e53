"""`distar audit verify`: hash what is stored again, and hold what is stated against signatures, git and the release."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import Key

from distar.audit.checks import Check, Outcome
from distar.audit.consistency import inconsistencies, not_compared
from distar.audit.evidence import Attested, Evidence, gather_release, resolve
from distar.audit.origin import Origin, find_origin, lock_at, parameter_differences
from distar.audit.page import Page, Rows, Status
from distar.audit.repository import Repository
from distar.documents import read_yaml
from distar.errors import DistarError, ReleaseError
from distar.lineage.provenance import MANIFEST_SUBJECT
from distar.release import releases
from distar.release.signing import ENVELOPE_SUFFIX, MODEL_SUFFIX, Finding, check_signatures
from distar.release.storage import Store
from distar.secrets import without_secrets

_STATUS: dict[Outcome, Status] = {"holds": "good", "gap": "bad", "note": "neutral"}


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

    @property
    def holds(self) -> bool:
        """Whether something was checked, and nothing of it is a gap."""
        return not self.gaps and any(check.outcome == "holds" for check in self.checks)


def verify(store: Store, text: str, repository: Repository, trusted: Sequence[Key]) -> Verified:
    """Verify a release; every gap is named, and the first never hides the others.

    Every check is listed with its result; one that could not be made is a gap. With `trusted` keys, only what one of
    them signed counts, and a release that none of them signed is a gap; without, that it is unsigned is a note.

    Raises:
        ReleaseError: there is no such release.
    """
    release = resolve(store, text)
    try:
        evidence = gather_release(store, release, trusted)
    except ReleaseError as error:
        return Verified(release, store.url, [Check("manifest", "gap", str(error)), *_without_manifest(store)])
    return Verified(
        release,
        store.url,
        [
            Check("manifest", "holds", f"its hash is the release's id; it lists {len(evidence.files)} files"),
            *_made("files", lambda: _blobs(evidence)),
            *_made("aliases", lambda: _aliases(evidence)),
            *_made("signatures", lambda: _signatures(evidence, trusted)),
            *_made("provenance", lambda: _provenance(evidence, repository)),
        ],
    )


def page_of(verified: Verified) -> Page:
    """Lay out what a verification found."""
    gaps = len(verified.gaps)
    if gaps:
        lead = f"{gaps} gap{'s' * (gaps > 1)}."
    else:
        lead = "Everything holds." if verified.holds else "Nothing was checked."
    rows = [(check.what, check.detail) for check in verified.checks]
    statuses: list[Status] = [_STATUS[check.outcome] for check in verified.checks]
    return Page(
        f"Release {verified.release[:16]}",
        f"In {verified.store}. {lead}",
        [Rows("Checks", ("what", "found"), rows, statuses)],
    )


def _made(what: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """Make some checks; if they cannot be made, or there are none, that is a gap, and others are made all the same."""
    made: list[Check] = []
    try:
        made.extend(checks())
    except DistarError as error:
        made.append(Check(what, "gap", f"not checked to its end: {error}"))
    return made or [Check(what, "gap", "not checked: there was nothing to check")]


def _without_manifest(store: Store) -> Iterator[Check]:
    for what in ("files", "signatures", "provenance"):
        yield Check(what, "gap", "not checked: the manifest says what they are to be held against")
    yield from _damaged_aliases(releases.read_aliases(store)[1])


def _blobs(evidence: Evidence) -> Iterator[Check]:
    problems = releases.verify(evidence.store, evidence.release)
    yield from map(_blob_check, problems)
    if not problems:
        size = sum(int(pin["bytes"]) for pin in evidence.files.values())
        yield Check("files", "holds", f"{len(evidence.files)} files, {size} bytes, hashed again: as the manifest says")


def _blob_check(problem: releases.Problem) -> Check:
    found = problem.got or "nothing"
    detail = found if problem.problem == "unreadable" else f"expected {problem.expected}, got {found}"
    return Check(f"file {problem.what}", "gap", f"{problem.problem}: {detail}")


def _aliases(evidence: Evidence) -> Iterator[Check]:
    yield from _damaged_aliases(evidence.alias_problems)
    if not evidence.alias_problems:
        pointing = f"{', '.join(evidence.aliases)} point here" if evidence.aliases else "none points here"
        yield Check("aliases", "holds", f"the history of each leads to where it points; {pointing}")


def _damaged_aliases(problems: dict[str, str]) -> Iterator[Check]:
    for alias, problem in problems.items():
        yield Check(f"alias {alias}", "gap", f"it cannot be followed: {problem}")


def _signatures(evidence: Evidence, trusted: Sequence[Key]) -> Iterator[Check]:
    findings = check_signatures(evidence.store, evidence.release, evidence.files, trusted)
    if not any(finding.attestation.endswith(ENVELOPE_SUFFIX) for finding in findings):
        yield Check("provenance", "gap", "nothing is stated of how the release was made; publish it again")
    for finding in findings:
        yield _signature(finding, bool(trusted))
    if trusted and not any(finding.status == "valid" for finding in findings):
        yield Check("signature", "gap", "none of the trusted keys signed this release")
    yield from _single_signatures(findings, trusted)


def _single_signatures(findings: Sequence[Finding], trusted: Sequence[Key]) -> Iterator[Check]:
    """Name what a key signed of two: it signs the provenance and the folder together, so one was removed or added."""
    keys = {key.keyid for key in trusted}
    signed = {
        suffix: {one.keyid for one in findings if one.keyid and one.attestation.endswith(suffix)}
        for suffix in (ENVELOPE_SUFFIX, MODEL_SUFFIX)
    }
    for suffix, kind, other in (
        (ENVELOPE_SUFFIX, "provenance", "the release's folder"),
        (MODEL_SUFFIX, "model signature", "what is stated of it"),
    ):
        for keyid in sorted(set().union(*signed.values()) - signed[suffix]):
            outcome: Outcome = "note" if keys and keyid not in keys else "gap"
            yield Check(f"{kind} by {keyid}", outcome, f"it is missing: this key signed {other} alone")


def _signature(finding: Finding, keys_are_trusted: bool) -> Check:
    kind = "provenance" if finding.attestation.endswith(ENVELOPE_SUFFIX) else "model signature"
    by = f" by {finding.keyid}" if finding.keyid else ""
    match finding.status:
        case "valid":
            return Check(f"{kind}{by}", "holds", "signed by a trusted key")
        case "unsigned":
            detail = "not signed: whoever may write to the store could have put it there"
            return Check(kind, "gap" if keys_are_trusted else "note", detail)
        case "unknown key":
            detail = (
                f"{finding.detail}: what it signed is not gone by"
                if keys_are_trusted
                else "no trusted keys are given, so the signature was not checked"
            )
            return Check(f"{kind}{by}", "note", detail)
        case _:
            return Check(f"{kind}{by}", "gap", f"{finding.status}: {finding.detail} ({finding.attestation})")


def _provenance(evidence: Evidence, repository: Repository) -> Iterator[Check]:
    """Check every statement that counts; with trusted keys the others are named by their signatures alone."""
    for unreadable in evidence.statements.unreadable:
        yield Check(f"statement {_short(unreadable.name)}", "gap", f"it does not count: {unreadable.reason}")
    if not evidence.attested:
        yield Check("statement", "gap", "not checked: there is no statement that counts")
    for attested in evidence.attested:
        about = "" if len(evidence.attested) == 1 else f" (statement {_short(attested.name)})"
        for check in _statement(evidence, attested, repository):
            yield Check(f"{check.what}{about}", check.outcome, check.detail)


def _short(name: str) -> str:
    return name.rpartition("/")[2][:16]


def _statement(evidence: Evidence, attested: Attested, repository: Repository) -> Iterator[Check]:
    yield from _made("subject", lambda: _subjects(evidence, attested))
    yield from _made("parameters", lambda: _parameters(evidence, attested))
    yield from _made("records", lambda: _consistent(evidence, attested))
    yield from _made("commit", lambda: _origin(attested, repository))


def _consistent(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    for stage in attested.stated.unrecorded:
        yield Check(
            f"record of {stage}", "gap", "there is none: the stage ran elsewhere, and its record was not brought"
        )
    sound = True
    for check in inconsistencies(evidence, attested):
        sound = sound and check.outcome != "gap"
        yield check
    if sound and attested.stated.runs:
        compared = f"{len(attested.stated.runs)} runs, {len(attested.stated.dvc_lock)} stages of dvc.lock"
        left = not_compared(evidence)
        materials = f"materials (but for {', '.join(left)})" if left else "materials"
        yield Check("records", "holds", f"{compared}, {materials} and the release's files agree")


def _subjects(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    subjects = attested.stated.files
    expected = {MANIFEST_SUBJECT: evidence.release} | {name: pin["sha256"] for name, pin in evidence.files.items()}
    if subjects == expected:
        yield Check("subject", "holds", "the provenance is about this very release")
    for name in sorted(subjects.keys() | expected.keys()):
        if subjects.get(name) != expected.get(name):
            detail = f"the provenance says {subjects.get(name)}, the release has {expected.get(name)}"
            yield Check(f"subject {name}", "gap", detail)


def _parameters(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    """Compare what is stated with the release's params.yaml, with each run's own and with dvc.lock's."""
    stated = attested.stated.all_parameters
    profile = f"profiles/{attested.stated.profile}.yaml"
    gaps = []
    packaged = without_secrets(read_yaml(evidence.read("params.yaml"), "the release's params.yaml", ReleaseError))
    for name, mine, other in parameter_differences(stated, packaged):
        gaps.append(("the release's params.yaml", name, mine, other))
    sources = {f"the run of {run['stage']}": run["parameters"] for run in attested.stated.runs}
    sources |= {f"dvc.lock, {name}": stage.get("params", {}) for name, stage in attested.stated.dvc_lock.items()}
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


def _origin(attested: Attested, repository: Repository) -> Iterator[Check]:
    origin = find_origin(attested.stated, repository)
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
    yield from _recorded(attested, origin, repository)


def _recorded(attested: Attested, origin: Origin, repository: Repository) -> Iterator[Check]:
    """Compare dvc.lock as it is stated with that of the commits that record the release."""
    if not origin.recorded_by:
        yield Check("dvc.lock", "gap", "no commit's dvc.lock records this release; commit dvc.lock after the run")
        return
    stated = attested.stated.dvc_lock
    compared = [
        (commit, list(parameter_differences(_by_path(stated), _by_path(lock_at(commit, repository)))))
        for commit in origin.recorded_by
    ]
    commit, differences = min(compared, key=lambda pair: len(pair[1]))
    if not differences:
        yield Check("dvc.lock", "holds", f"commit {commit} records this release")
    for name, mine, other in differences:
        detail = f"the provenance says {json.dumps(mine)}, commit {commit[:12]} has {json.dumps(other)}"
        yield Check(f"dvc.lock: {name}", "gap", detail)


def _by_path(lock: dict[str, Any]) -> dict[str, Any]:
    """Name the entries of each stage by their paths, so that what differs is named by its own."""
    return {
        stage: {
            key: {one["path"]: one for one in value} if key in {"deps", "outs"} else value
            for key, value in entry.items()
        }
        for stage, entry in lock.items()
    }


def _at(parameters: dict[str, Any], key: str) -> Any:
    place: Any = parameters
    for part in key.split("."):
        place = place[part] if isinstance(place, dict) and part in place else None
    return place
