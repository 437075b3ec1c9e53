"""Which commit a release comes from: the one where code, parameters and locks are as its runs had them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from distar.audit.repository import Repository
from distar.lineage.stated import Stated
from distar.paths import RELEASE
from distar.secrets import without_secrets


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
    recorded_by = repository.commits_with(release_md5(lock)) if "package" in lock else []
    candidates = [commit for commit in dict.fromkeys([*ran_at, *recorded_by]) if repository.has(commit)]
    compared = [(commit, list(_differences(runs, lock, commit, repository))) for commit in candidates]
    nearest = min(compared, key=lambda pair: len(pair[1]), default=(None, []))
    return Origin(*nearest, [commit for commit in ran_at if commit not in candidates], recorded_by)


def release_md5(lock: Mapping[str, Any]) -> str:
    """Return DVC's hash of the release folder, by the stages of dvc.lock."""
    return md5_of(lock["package"]["outs"], RELEASE.as_posix()) or ""


def md5_of(entries: list[dict[str, Any]], path: str) -> str | None:
    """Return DVC's hash of one dependency or output of a stage of dvc.lock."""
    return next((entry["md5"] for entry in entries if entry["path"] == path), None)


def parameter_differences(mine: Any, theirs: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compare two trees of parameters; yield each place where they differ, and both values (None: there is none)."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*mine, *theirs]):
            yield from parameter_differences(mine.get(key), theirs.get(key), f"{name}.{key}" if name else str(key))
    elif mine != theirs:
        yield name, mine, theirs


def _differences(
    runs: list[dict[str, Any]], lock: Mapping[str, Any], commit: str, repository: Repository
) -> Iterator[Difference]:
    made = {path for run in runs for path in run["outputs"]} | {
        out["path"] for stage in lock.values() for out in stage.get("outs", ())
    }
    seen: set[Difference] = set()
    for run in runs:
        for difference in (*_of_inputs(run, lock, made, commit, repository), *_of_parameters(run, commit, repository)):
            if difference not in seen:
                seen.add(difference)
                yield difference
    for sha256 in dict.fromkeys(run["environment"]["lock"] for run in runs):
        got = repository.digest(commit, "requirements/lock.txt")
        if got != sha256:
            yield Difference("requirements/lock.txt", str(sha256), str(got))


def _of_inputs(
    run: dict[str, Any], lock: Mapping[str, Any], made: set[str], commit: str, repository: Repository
) -> Iterator[Difference]:
    for path, content in run["inputs"].items():
        if content is None or path in made or path == "requirements/lock.txt":
            continue
        got = repository.digest(commit, path)
        if got is None and _tracked_by_dvc(run["stage"], path, lock, commit, repository):
            continue
        if got != content["sha256"]:
            yield Difference(path, content["sha256"], got or "not there")


def _tracked_by_dvc(stage: str, path: str, lock: Mapping[str, Any], commit: str, repository: Repository) -> bool:
    """Say whether `dvc add` keeps the file, with the very hash that the stage depended on."""
    pointer, md5 = repository.read(commit, f"{path}.dvc"), md5_of(lock.get(stage, {}).get("deps", []), path)
    return pointer is not None and md5 is not None and md5 in pointer.decode()


def _of_parameters(run: dict[str, Any], commit: str, repository: Repository) -> Iterator[Difference]:
    for path, values in run["parameters"].items():
        text = repository.read(commit, path)
        content = without_secrets(YAML(typ="safe").load(text)) if text is not None else {}
        theirs = {key: _at(content, key) for key in values}
        for name, mine, other in parameter_differences(values, theirs):
            yield Difference(f"{path}: {name}", json.dumps(mine), json.dumps(other))


def _at(content: Any, key: str) -> Any:
    if key in content:
        return content[key]
    for part in key.split("."):
        content = content.get(part, {}) if isinstance(content, Mapping) else {}
    return content
