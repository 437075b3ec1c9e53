"""From a release back to the runs that made it: each record's inputs are another record's outputs."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from distar.lineage.pipeline import read_stages
from distar.lineage.record import runs_dir

Record = dict[str, Any]


class Runs(NamedTuple):
    """The records behind something, in the pipeline's order, and the stages of which there is none."""

    records: list[Record]
    unrecorded: list[str]


def runs_behind(path: str, digest: str) -> Runs:
    """Find the runs that made `path` as its digest says, and all that went into it.

    A stage whose outputs DVC restored from its cache is found by them too. One that ran elsewhere, and whose record is
    not here, is unrecorded; so is what only its record would lead to.
    """
    stages = read_stages()
    makers = {output.as_posix(): name for name, stage in stages.items() for output in stage.outputs}
    wanted: dict[str, dict[str, str]] = {makers[path]: {path: digest}}  # by stage: its outputs, as they were used
    found: dict[str, Record] = {}
    for name in reversed(list(stages)):  # dvc.yaml has each stage after those that it depends on
        record = _newest(name, wanted[name]) if name in wanted else None
        if record is None:
            continue
        found[name] = record
        for used, content in record["inputs"].items():
            if content is not None and used in makers:
                wanted.setdefault(makers[used], {})[used] = content["sha256"]
    behind = _upstream(makers[path])
    return Runs([found[name] for name in stages if name in found], [n for n in stages if n in behind - found.keys()])


def _newest(stage: str, outputs: dict[str, str]) -> Record | None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (runs_dir() / stage).glob("*.json")]
    fitting = [
        record
        for record in records
        if all((record["outputs"].get(path) or {}).get("sha256") == digest for path, digest in outputs.items())
    ]
    return max(fitting, key=lambda record: record["ended"], default=None)


def _upstream(stage: str) -> set[str]:
    stages = read_stages()
    makers = {output: name for name, each in stages.items() for output in each.outputs}
    names = {stage}
    for name in reversed(list(stages)):
        if name in names:
            names |= {makers[used] for used in stages[name].inputs if used in makers}
    return names
