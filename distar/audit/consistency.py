"""What is stated twice, held against itself: runs, dvc.lock, materials and the release's own files.

A signature says who stated something; this says whether it can be true. Whatever stands in two places is compared, so
that one change, by a stranger or by mistake, is named even where nobody signed, or the owner signed after it. What
stands in one place alone rests on the signature: docs/audit.md lists it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NotRequired
from urllib.parse import quote

from typing_extensions import TypedDict

from distar import paths
from distar.audit.checks import Check, Outcome
from distar.audit.evidence import Attested, Evidence
from distar.audit.origin import parameter_differences
from distar.documents import Count, Sha256, read_json, validated
from distar.errors import ReleaseError
from distar.lineage.provenance import BUILDER, PREDICATE_TYPE, STATEMENT_TYPE, materials_of, metadata_of
from distar.lineage.record import LOCK_PATH, digest_of_pins
from distar.lineage.runs import CLOCKS_AGREE, Record, ends_before
from distar.release.bom import BOM
from distar.release.package import MANIFEST
from distar.secrets import without_secrets

PACKAGE = "package"
_REPORT = (paths.REPORT_PAGE, paths.SAMPLE_GRID, paths.SCORES)
_OF_RUNS = {"code", "environment"}  # materials that the runs' records name, too


class _PromptSetForm(TypedDict):
    source: str
    licence: str
    num_prompts: Count
    sha256: Sha256


class _HashForm(TypedDict):
    alg: str
    content: Sha256


class _UrlForm(TypedDict):
    url: str


class _FileForm(TypedDict):
    name: str
    hashes: list[_HashForm]


_OriginForm = TypedDict(
    "_OriginForm",
    {
        "bom-ref": str,
        "externalReferences": list[_UrlForm],
        "components": NotRequired[list[_FileForm]],
        "hashes": NotRequired[list[_HashForm]],
    },
)


class _BillForm(TypedDict):
    components: list[_OriginForm]


def inconsistencies(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    """Yield a gap for each thing that a release and a statement of it say twice, and not in the same way."""
    yield from _statement(attested)
    yield from _runs_linked(attested)
    yield from _times(attested)
    yield from _packaged(evidence, attested)
    yield from _locked(attested)
    yield from _materials(evidence, attested)
    yield from _scores(evidence)


def _gap(what: str, detail: str) -> Check:
    return Check(what, "gap", detail)


def _statement(attested: Attested) -> Iterator[Check]:
    """Compare what follows from the runs' records, or never changes, with what the statement says."""
    statement, runs = attested.statement, attested.stated.runs
    for name in attested.stated.unknown:
        yield _gap(f"statement: {name}", "nothing of this project writes such a field")
    details = statement["predicate"]["runDetails"]
    for what, got, expected in (
        ("type", statement["_type"], STATEMENT_TYPE),
        ("predicate type", statement["predicateType"], PREDICATE_TYPE),
        ("builder", details["builder"]["id"], BUILDER),
        ("times", details["metadata"], without_secrets(metadata_of(runs))),
    ):
        if got != expected:
            yield _gap(f"statement: {what}", f"it says {_short(got)}; by its runs it would be {_short(expected)}")


def _runs_linked(attested: Attested) -> Iterator[Check]:
    """Compare what runs read with what other runs made, and with what their likes read."""
    stated = attested.stated
    stages = [run["stage"] for run in stated.runs]
    for stage in dict.fromkeys(stages):
        if stages.count(stage) > 1:
            yield _gap(f"record of {stage}", "there are several of one release")
        if stage in stated.unrecorded:
            yield _gap(f"record of {stage}", "it is there, and stated to be missing")
    expected = {PACKAGE, *stated.dvc_lock}
    for stage in sorted(expected - {*stages, *stated.unrecorded}):
        yield _gap(f"record of {stage}", "it was left out, and is not stated to be missing")
    made = {path: (run["stage"], content) for run in stated.runs for path, content in run["outputs"].items()}
    if len(made) < sum(len(run["outputs"]) for run in stated.runs):
        yield _gap("records: outputs", "two runs made the same output")
    seen: dict[str, tuple[str, Any]] = {}
    for run in stated.runs:
        for path, content in run["inputs"].items():
            if path in made:
                maker, other = made[path]
                how = f"the run of {maker} made"
            else:
                maker, other = seen.setdefault(path, (run["stage"], content))
                how = f"the run of {maker} read"
            if content != other:
                yield _gap(f"record of {run['stage']}: {path}", f"it read {_content(content)}; {how} {_content(other)}")
            if path == LOCK_PATH.as_posix() and content and content["sha256"] != run["environment"]["lock"]:
                yield _gap(
                    f"record of {run['stage']}: environment",
                    f"it read the lock {content['sha256']}, and states {run['environment']['lock']}",
                )
        seeds = run.get("seeds", {})
        if seeds not in ({}, {"seed": stated.seed}):
            yield _gap(f"record of {run['stage']}: seeds", f"got {_short(seeds)}, expected seed {stated.seed}")
    yield from _circles(stated.runs)


def _circles(runs: list[Record]) -> Iterator[Check]:
    """Find runs that are said to have made what they were made from; a sound record names its makers before itself."""
    made: set[str] = set()
    outputs = {path for run in runs for path in run["outputs"]}
    for run in runs:
        for path in run["inputs"]:
            if path in outputs and path not in made:
                yield _gap(f"record of {run['stage']}: {path}", "it read what only it or a later stage made")
        made |= run["outputs"].keys()


def _times(attested: Attested) -> Iterator[Check]:
    """Compare each run's beginning, end and length, and the order of runs that read one another's outputs."""
    runs = attested.stated.runs
    makers = {path: run for run in runs for path in run["outputs"]}
    for run in runs:
        what = f"record of {run['stage']}: times"
        length = (datetime.fromisoformat(run["ended"]) - datetime.fromisoformat(run["started"])).total_seconds()
        if length + CLOCKS_AGREE.total_seconds() < run["seconds"]:
            yield _gap(what, f"it ran {run['seconds']} s, and ended {length:.1f} s after it began")
        cost, rounding = run["seconds"] * run["processes"], 0.006 * (run["processes"] + 1)
        if abs(cost - run["cost_seconds"]) > rounding:
            yield _gap(what, f"{run['processes']} processes for {run['seconds']} s are not {run['cost_seconds']} s")
        for path in run["inputs"]:
            if path in makers and not ends_before(makers[path], run):
                yield _gap(
                    what,
                    f"it began at {run['started']}, and the run of {makers[path]['stage']}, whose {path} it read, "
                    f"ended at {makers[path]['ended']}",
                )


def _packaged(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    """Compare the outputs of the last runs with the release's files."""
    manifest = {MANIFEST: {"sha256": evidence.release, "bytes": evidence.manifest_bytes}}
    pins = {**evidence.files, **manifest}
    expected = {
        paths.RELEASE.as_posix(): digest_of_pins(pins),
        paths.METRICS.as_posix(): _of_file(pins, paths.METRICS.name),
        paths.REPORTS.as_posix(): digest_of_pins({path.name: pins[path.name] for path in _REPORT if path.name in pins}),
    }
    for run in attested.stated.runs:
        for path, content in run["outputs"].items():
            if path not in expected or (path == paths.REPORTS.as_posix() and _other_report(content)):
                continue
            if content != expected[path]:
                yield _gap(
                    f"record of {run['stage']}: {path}",
                    f"it made {_content(content)}; the release's files are {_content(expected[path])}",
                )
        if run["stage"] == PACKAGE and run.get("release") != evidence.release:
            yield _gap(f"record of {PACKAGE}: release", f"it made {run.get('release')}, and this is {evidence.release}")


def _other_report(content: Mapping[str, Any] | None) -> bool:
    """Say whether a report holds more files than releases do; then its hash cannot be made from theirs."""
    return content is not None and content["files"] > len(_REPORT)


def _of_file(pins: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    pin = pins.get(name)
    return None if pin is None else {"sha256": pin["sha256"], "bytes": pin["bytes"], "files": 1}


def _locked(attested: Attested) -> Iterator[Check]:
    """Compare dvc.lock's entries with one another, and with the runs' records."""
    lock = attested.stated.dvc_lock
    yield from _named_twice(lock)
    made = {out["path"]: (stage, out) for stage, entry in lock.items() for out in entry.get("outs", ())}
    seen: dict[str, tuple[str, Any]] = {}
    for stage, entry in lock.items():
        for dep in entry.get("deps", ()):
            maker, other = made.get(dep["path"]) or seen.setdefault(dep["path"], (stage, dep))
            if any(dep.get(key) != other.get(key) for key in ("hash", "md5", "size", "nfiles")):
                yield _gap(
                    f"dvc.lock: {stage}: {dep['path']}",
                    f"{_entry(dep)} went in; {_entry(other)} is what the entry of {maker} has",
                )
    for run in attested.stated.runs:
        if run["stage"] in lock:
            yield from _run_locked(run, lock[run["stage"]])


def _named_twice(lock: Mapping[str, Any]) -> Iterator[Check]:
    """Find paths of which one stage has two entries: which of them counts would be a matter of who reads."""
    for stage, entry in lock.items():
        for kind in ("deps", "outs"):
            for path, number in Counter(one["path"] for one in entry.get(kind, ())).items():
                if number > 1:
                    yield _gap(f"dvc.lock: {stage}: {path}", f"of its {kind}, {number} have this path")


def _run_locked(run: Record, entry: Mapping[str, Any]) -> Iterator[Check]:
    for kind, contents in (("deps", run["inputs"]), ("outs", run["outputs"])):
        entries = {one["path"]: one for one in entry.get(kind, ())}
        for path in sorted(entries.keys() ^ contents.keys()):
            where = "dvc.lock" if path in entries else "the run's record"
            yield _gap(f"dvc.lock: {run['stage']}: {path}", f"of its {kind}, {where} alone names it")
        for path in sorted(entries.keys() & contents.keys()):
            content, one = contents[path], entries[path]
            if content is None:
                yield _gap(f"dvc.lock: {run['stage']}: {path}", "it is there; the run's record has nothing")
                continue
            size, files = one.get("size", content["bytes"]), one.get("nfiles", 1)
            if (size, files) != (content["bytes"], content["files"]):
                yield _gap(
                    f"dvc.lock: {run['stage']}: {path}",
                    f"it has {size} bytes in {files} files; the run's record has {content['bytes']} in "
                    f"{content['files']}",
                )
    for name, mine, other in parameter_differences(entry.get("params", {}), run["parameters"]):
        yield _gap(
            f"dvc.lock: {run['stage']}: parameter {name}",
            f"it says {_short(mine)}, the run's record says {_short(other)}",
        )


def _materials(evidence: Evidence, attested: Attested) -> Iterator[Check]:
    """Compare the materials with the runs' records, the release's prompt card and its bill of materials."""
    stated = attested.stated
    of_runs = [entry for entry in stated.materials if entry["name"] in _OF_RUNS]
    expected = without_secrets(materials_of(stated.runs))
    for position in range(max(len(of_runs), len(expected))):
        got, by_runs = of_runs[position : position + 1], expected[position : position + 1]
        if got != by_runs:
            name = (got or by_runs)[0]["name"]
            yield _gap(
                f"material {name}", f"the statement says {_short(got)}; by its runs it would be {_short(by_runs)}"
            )
    others = [entry for entry in stated.materials if entry["name"] not in _OF_RUNS]
    named = {entry["name"]: entry for entry in others}
    if len(named) < len(others):
        yield _gap("materials", "one is stated twice")
    if paths.PROMPTS_CARD.name in evidence.files:
        yield from _as_expected(_prompt_sets(evidence), named, paths.PROMPTS_CARD.name, prompts=True)
    if BOM in evidence.files:
        yield from _as_expected(_bill(evidence), named, BOM, prompts=False)
    for kind, source in not_compared(evidence).items():
        number = len([name for name in named if _is_prompts(name) == (source != BOM)])
        outcome: Outcome = "gap" if number else "note"
        yield Check(f"materials: {kind}", outcome, f"{number} are stated; the release has no {source} to compare with")


def not_compared(evidence: Evidence) -> dict[str, str]:
    """Return the kinds of materials that a release says nothing of, each with the file that it lacks."""
    sources = {"prompts": paths.PROMPTS_CARD.name, "models": BOM}
    return {kind: source for kind, source in sources.items() if source not in evidence.files}


def _is_prompts(name: str) -> bool:
    return name.startswith("prompts/")


def _prompt_sets(evidence: Evidence) -> dict[str, dict[str, Any]]:
    name = paths.PROMPTS_CARD.name
    document = read_json(evidence.read(name), name, ReleaseError)
    card = validated(dict[str, _PromptSetForm], document, name, ReleaseError)
    return {
        f"prompts/{part}": {
            "name": f"prompts/{part}",
            "uri": one["source"],
            "digest": {"sha256": one["sha256"]},
            "annotations": {"licence": one["licence"], "num_prompts": one["num_prompts"]},
        }
        for part, one in card.items()
    }


def _bill(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return what the bill of materials says of each model's file; URIs are quoted there."""
    bill = validated(_BillForm, read_json(evidence.read(BOM), BOM, ReleaseError), BOM, ReleaseError)
    found = {}
    for origin in bill["components"]:
        source = origin["externalReferences"][0]["url"] if origin["externalReferences"] else ""
        for file in origin.get("components", ()):
            if not _is_prompts(origin["bom-ref"]):
                name, part = f"{origin['bom-ref']}/{file['name']}", quote(file["name"], safe="/:@")
                digest = {one["alg"]: one["content"] for one in file["hashes"]}.get("SHA-256")
                uri = source if source.endswith(f"/{part}") else f"{source}/{part}"
                found[name] = {"name": name, "uri": uri, "digest": {"sha256": digest}}
    return found


def _as_expected(
    expected: Mapping[str, Mapping[str, Any]], named: Mapping[str, Mapping[str, Any]], source: str, *, prompts: bool
) -> Iterator[Check]:
    names = {name for name in named if _is_prompts(name) == prompts}
    others = dict(zip(expected, without_secrets(list(expected.values())), strict=True))  # at once: it takes its time
    for name in sorted(names | expected.keys()):
        got, other = named.get(name), others.get(name)
        if got is not None and not prompts:
            got = {**got, "uri": quote(got["uri"], safe="/:@")}
        if got != other:
            yield _gap(f"material {name}", f"the statement says {_short(got)}, the release's {source} {_short(other)}")


def _scores(evidence: Evidence) -> Iterator[Check]:
    """Compare the prompts that were scored with those that the release's prompt card names."""
    if not {paths.SCORES.name, paths.PROMPTS_CARD.name} <= evidence.files.keys():
        return
    card = _prompt_sets(evidence).get("prompts/evaluation")
    try:
        text = evidence.read(paths.SCORES.name).decode()
        rows = (row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row)
        place = next(rows, []).index("prompt")
        got = hashlib.sha256("\n".join([row[place] for row in rows]).encode()).hexdigest()
    except (ValueError, LookupError, csv.Error) as error:
        raise ReleaseError(f"{paths.SCORES.name} of the release cannot be read ({error!r})") from None
    expected = card["digest"]["sha256"] if card else None
    if got != expected:
        yield _gap(
            f"file {paths.SCORES.name}",
            f"its prompts hash to {got}; {paths.PROMPTS_CARD.name} says {expected}: they were not evaluated on",
        )


def _content(content: Mapping[str, Any] | None) -> str:
    if content is None:
        return "nothing"
    return f"{content['sha256'][:16]} ({content['bytes']} bytes, {content['files']} files)"


def _entry(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('md5')} ({entry.get('size')} bytes, {entry.get('nfiles', 1)} files)"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"
