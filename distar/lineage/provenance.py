"""A release's provenance: an in-toto statement v1 with an SLSA provenance v1 predicate (slsa.dev/provenance/v1).

    subject                    the manifest, whose sha256 is the release's id, and every file
    externalParameters         what a user may change: profile, seed, every parameter
    internalParameters         the record of each stage's run, and DVC's lock
    resolvedDependencies       code, environment, prompts, models: each with its hash

It holds times and machines, so it stands beside the release, whose content comes out the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from distar.lineage.record import LOCK_PATH
from distar.lineage.runs import Record, Runs
from distar.secrets import without_secrets

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:distar:pipeline:v1"
BUILDER = "urn:distar:dvc"
MANIFEST_SUBJECT = "manifest.json"

Statement = dict[str, Any]


class Material(NamedTuple):
    """Something that a release was made from; `name` begins with its role: `prompts`, `reference`, `rewards/NAME`."""

    name: str
    uri: str
    sha256: str
    annotations: dict[str, Any]


def make_statement(
    release_id: str,
    files: Mapping[str, Mapping[str, str | int]],
    parameters: Mapping[str, Any],
    runs: Runs,
    materials: Iterable[Material],
    dvc_lock: Mapping[str, Any],
) -> Statement:
    """State how a release came to be; the same runs are stated in the same words.

    `parameters` are the release's own params.yaml (`profile`, `seed` and the profile's sections); `dvc_lock` holds the
    stages of dvc.lock.
    """
    profile = {name: value for name, value in parameters.items() if name not in {"profile", "seed"}}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": MANIFEST_SUBJECT, "digest": {"sha256": release_id}},
            *({"name": name, "digest": {"sha256": pin["sha256"]}} for name, pin in sorted(files.items())),
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "profile": parameters["profile"],
                    "seed": parameters["seed"],
                    "parameters": profile,
                },
                "internalParameters": {
                    "runs": runs.records,
                    "unrecorded": runs.unrecorded,
                    "dvc_lock": dict(dvc_lock),
                },
                "resolvedDependencies": [*materials_of(runs.records), *(_described(m) for m in materials)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {name: version(name) for name in ("distar", "dvc")}},
                "metadata": metadata_of(runs.records),
            },
        },
    }
    return without_secrets(statement)


def metadata_of(records: Sequence[Record]) -> dict[str, str]:
    """Return when the runs began and ended, and which came last; nothing without runs."""
    if not records:
        return {}
    last = records[-1]
    return {
        "invocationId": f"{last['flow_run'] or 'dvc'}:{last['stage']}:{last['ended']}",
        "startedOn": min(record["started"] for record in records),
        "finishedOn": max(record["ended"] for record in records),
    }


def materials_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Name every commit that a stage ran at, with what differed from it, and every environment."""
    commits: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["git"] is None:
            continue
        commit, remote = record["git"]["commit"], record["git"]["remote"]
        described = commits.setdefault(
            commit,
            {
                "name": "code",
                "uri": f"git+{remote}@{commit}" if remote else f"git:{commit}",
                "digest": {"gitCommit": commit},
                "annotations": {"stages": [], "changed": []},
            },
        )
        described["annotations"]["stages"].append(record["stage"])
        described["annotations"]["changed"] = sorted({*described["annotations"]["changed"], *record["git"]["changed"]})
    locks = dict.fromkeys(record["environment"]["lock"] for record in records if record["environment"]["lock"])
    environments = [{"name": "environment", "uri": LOCK_PATH.as_posix(), "digest": {"sha256": lock}} for lock in locks]
    return [*commits.values(), *environments]


def _described(material: Material) -> dict[str, Any]:
    described = {"name": material.name, "uri": material.uri, "digest": {"sha256": material.sha256}}
    return described | ({"annotations": material.annotations} if material.annotations else {})
