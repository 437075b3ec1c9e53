"""Which commit a release comes from: the one where code, parameters and locks are as its runs had them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distar.audit.repository import Repository, as_document
from distar.errors import ReleaseError
from distar.lineage.pipeline import DVC_LOCK
from distar.lineage.record import LOCK_PATH
from distar.lineage.stated import Stated
from distar.paths import RELEASE

_LOCK = LOCK_PATH.as_posix()


@dataclass(frozen=True)
class Difference:
    """Something that a run had otherwise than the commit has it."""

    what: str
    run: str
    commit: str


@dataclass(frozen=True)
class Origin:
    """The commit that a release comes from, or the nearest with what differs; commits that are not here."""

    commit: str | None
    differences: list[Difference]
    missing: list[str]
    recorded_by: list[str]
    """Commits whose dvc.lock names the release as the output of `package`."""


def find_origin(stated: Stated, repository: Repository) -> Origin:
    """Look for the commit that holds all that the runs read from git.

    Parameters are often edited, run, and committed together with dvc.lock: then the runs' own commit differs, and the
    one that recorded their result does not.
    """
    runs, lock = stated.runs, stated.dvc_lock
    ran_at = list(dict.fromkeys(run["git"]["commit"] for run in reversed(runs) if run["git"]))
    md5 = release_md5(lock)
    recorded_by = repository.commits_with(md5) if md5 else []
    known = repository.known(ran_at)
    candidates = list(dict.fromkeys([*(commit for commit in ran_at if commit in known), *recorded_by]))
    compared = [(commit, list(_differences(runs, lock, commit, repository))) for commit in candidates]
    nearest = min(compared, key=lambda pair: len(pair[1]), default=(None, []))
    return Origin(*nearest, [commit for commit in ran_at if commit not in candidates], recorded_by)


def release_md5(lock: Mapping[str, Any]) -> str:
    """Return DVC's hash of the release folder, by the stages of dvc.lock."""
    return md5_of(lock.get("package", {}).get("outs", []), RELEASE.as_posix()) or ""


def lock_at(commit: str, repository: Repository) -> dict[str, Any]:
    """Return the stages of a commit's dvc.lock, but for `publish`, as provenance states them.

    Raises:
        ReleaseError: it cannot be read.
    """
    document = repository.document(commit, DVC_LOCK.as_posix())
    stages = document.get("stages") if isinstance(document, dict) else None
    if not isinstance(stages, dict):
        raise ReleaseError(f"{DVC_LOCK} of commit {commit[:12]} holds no stages")
    return {name: entry for name, entry in stages.items() if name != "publish"}


def md5_of(entries: list[dict[str, Any]], path: str) -> str | None:
    """Return DVC's hash of one dependency or output of a stage of dvc.lock."""
    return next((entry.get("md5") for entry in entries if entry["path"] == path), None)


def parameter_differences(mine: Any, theirs: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compare two trees of parameters; yield each place where they differ, and both values (None: there is none)."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*mine, *theirs]):
            yield from parameter_differences(mine.get(key), theirs.get(key), f"{name}.{key}" if name else str(key))
    elif not _same(mine, theirs):
        yield name, mine, theirs


def _same(mine: Any, theirs: Any) -> bool:
    """Say whether two values are the same; 1 is 1.0, which writers of YAML and JSON exchange, and is not true."""
    match mine, theirs:
        case list(), list():
            return len(mine) == len(theirs) and all(map(_same, mine, theirs))
        case Mapping(), Mapping():
            return not any(parameter_differences(mine, theirs))
        case _:
            return mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)


def _differences(
    runs: list[dict[str, Any]], lock: Mapping[str, Any], commit: str, repository: Repository
) -> Iterator[Difference]:
    made = {path for run in runs for path in run["outputs"]} | {
        out["path"] for stage in lock.values() for out in stage.get("outs", ())
    }
    there = _There.of(commit, runs, repository)
    seen: set[Difference] = set()
    for run in runs:
        for difference in (*_of_inputs(run, lock, made, there), *_of_parameters(run, there)):
            if difference not in seen:
                seen.add(difference)
                yield difference
    for sha256 in dict.fromkeys(run["environment"]["lock"] for run in runs):
        got = there.digests.get(_LOCK)
        if got != sha256:
            yield Difference(_LOCK, str(sha256), str(got))


@dataclass(frozen=True)
class _There:
    """What a commit has of all that some runs read: hashes, DVC's pointers and parameters, read at once."""

    digests: dict[str, str]
    pointers: dict[str, bytes]
    parameters: dict[str, Any]

    @classmethod
    def of(cls, commit: str, runs: list[dict[str, Any]], repository: Repository) -> _There:
        inputs = {path for run in runs for path in run["inputs"]}
        digests = repository.digests(commit, {_LOCK, *inputs})
        pointers = {_pointer(path) for path in inputs - digests.keys()}
        parameters = {path for run in runs for path in run["parameters"]}
        files = repository.files(commit, pointers | parameters)
        documents = {path: as_document(files[path], commit, path) for path in parameters & files.keys()}
        return cls(digests, {path: files[path] for path in pointers & files.keys()}, documents)


def _pointer(path: str) -> str:
    return f"{path}.dvc"


def _of_inputs(run: dict[str, Any], lock: Mapping[str, Any], made: set[str], there: _There) -> Iterator[Difference]:
    deps = {entry["path"]: entry.get("md5") for entry in lock.get(run["stage"], {}).get("deps", [])}
    for path, content in run["inputs"].items():
        if path in made or path == _LOCK:
            continue
        got, expected = there.digests.get(path), content and content["sha256"]
        if got is None and _tracked_by_dvc(path, deps, there):
            continue
        if got != expected:
            yield Difference(path, expected or "not there", got or "not there")


def _tracked_by_dvc(path: str, deps: Mapping[str, str | None], there: _There) -> bool:
    """Say whether `dvc add` keeps the file, with the very hash that the stage depended on."""
    pointer, md5 = there.pointers.get(_pointer(path)), deps.get(path)
    return pointer is not None and md5 is not None and md5.encode() in pointer


def _of_parameters(run: dict[str, Any], there: _There) -> Iterator[Difference]:
    for path, values in run["parameters"].items():
        content = there.parameters.get(path) or {}
        theirs = {key: _at(content, key) for key in values}
        for name, mine, other in parameter_differences(values, theirs):
            yield Difference(f"{path}: {name}", json.dumps(mine), json.dumps(other))


def _at(content: Any, key: str) -> Any:
    if isinstance(content, Mapping) and key in content:
        return content[key]
    for part in key.split("."):
        content = content.get(part, {}) if isinstance(content, Mapping) else {}
    return content
