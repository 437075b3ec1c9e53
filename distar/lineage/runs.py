"""From a release back to the runs that made it: each record's inputs are another record's outputs."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from distar.documents import Count, Sha256, Timestamp, read_json, validated
from distar.errors import ReleaseError
from distar.lineage.pipeline import read_stages
from distar.lineage.record import key_of, runs_dir

Record = dict[str, Any]

CLOCKS_AGREE = timedelta(seconds=1)  # on one machine; records round to milliseconds
CLOCKS_DIFFER = timedelta(seconds=60)  # between two machines


Commit = Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
Seconds = Annotated[float, Field(ge=0, le=1e10, strict=True)]


class _ContentForm(TypedDict):
    sha256: Sha256
    bytes: Count
    files: Count


class _GitForm(TypedDict):
    commit: Commit
    changed: list[str]
    remote: str | None


class _EnvironmentForm(TypedDict):
    python: str
    system: str
    libraries: dict[str, str]
    lock: Sha256 | None


class _MachineForm(TypedDict):
    host: str
    cpu: str
    cores: int | None


_DeviceForm = TypedDict(
    "_DeviceForm",
    {
        "class": str,
        "name": str,
        "type": NotRequired[str],
        "driver": NotRequired[str | None],
        "memory_bytes": NotRequired[Count],
        "threads": NotRequired[Count],
        "count": NotRequired[Count],
    },
)


class RecordForm(TypedDict):
    """What records hold; what is not required is some stages' alone."""

    stage: str
    started: Timestamp
    ended: Timestamp
    seconds: Seconds
    processes: Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
    cost_seconds: Seconds
    git: _GitForm | None
    parameters: dict[str, dict[str, Any]]
    inputs: dict[str, _ContentForm | None]
    outputs: dict[str, _ContentForm | None]
    flow_run: str | None
    environment: _EnvironmentForm
    machine: _MachineForm
    device: _DeviceForm | None
    seeds: NotRequired[dict[str, Count]]
    drawing: NotRequired[dict[str, dict[str, Any]]]
    release: NotRequired[str]
    outcome: NotRequired[Any]


class Runs(NamedTuple):
    """The records behind something, in the pipeline's order, and the stages of which there is none."""

    records: list[Record]
    unrecorded: list[str]


def runs_behind(path: str, digest: str) -> Runs:
    """Find the runs that made `path` as its digest says, and all that went into it.

    A stage whose outputs DVC restored from its cache is found by them too. One that ran elsewhere, and whose record is
    not here, is unrecorded; so is what only its record would lead to. Of several runs that made the same, the newest
    counts that ended before what used it began.
    """
    stages = read_stages()
    makers = {output.as_posix(): name for name, stage in stages.items() for output in stage.outputs}
    wanted: dict[str, dict[str, str]] = {makers[path]: {path: digest}}  # by stage: its outputs, as they were used
    used_by: dict[str, list[Record]] = {}
    found: dict[str, Record] = {}
    for name in reversed(list(stages)):  # dvc.yaml has each stage after those that it depends on
        record = _newest(name, wanted[name], used_by.get(name, [])) if name in wanted else None
        if record is None:
            continue
        found[name] = record
        for used, content in record["inputs"].items():
            if content is not None and used in makers:
                wanted.setdefault(makers[used], {}).setdefault(used, content["sha256"])
                used_by.setdefault(makers[used], []).append(record)
    behind = _upstream(makers[path])
    return Runs([found[name] for name in stages if name in found], [n for n in stages if n in behind - found.keys()])


def read_record(path: Path) -> Record:
    """Read a record, whose name is the key of its content.

    Raises:
        ReleaseError: it is no record, or was changed after it was written.
    """
    content = path.read_bytes()
    record = read_json(content, str(path), ReleaseError)
    validated(RecordForm, record, str(path), ReleaseError)
    if path.stem not in {key_of(content), _former_key(record)}:
        raise ReleaseError(f"{path} was changed after it was written: its name is not the key of its content")
    return record


def ends_before(maker: Record, user: Record) -> bool:
    """Say whether a run ended before another began, as far as their machines' clocks agree."""
    same_machine = maker["machine"]["host"] == user["machine"]["host"]
    tolerance = CLOCKS_AGREE if same_machine else CLOCKS_DIFFER
    return datetime.fromisoformat(maker["ended"]) <= datetime.fromisoformat(user["started"]) + tolerance


def _newest(stage: str, outputs: dict[str, str], used_by: list[Record]) -> Record | None:
    fitting = [
        record
        for record in _records(stage)
        if all((record["outputs"].get(path) or {}).get("sha256") == digest for path, digest in outputs.items())
    ]
    before = [record for record in fitting if all(ends_before(record, user) for user in used_by)]
    return max(before or fitting, key=lambda record: datetime.fromisoformat(record["ended"]), default=None)


def _records(stage: str) -> list[Record]:
    """Read a stage's records; one that is damaged counts as none, and is named, since the audit will miss it."""
    records = []
    for path in sorted((runs_dir() / stage).glob("*.json")):
        try:
            record = read_record(path)
        except (ReleaseError, OSError) as error:
            print(f"{error}; it is left out of the release's provenance", file=sys.stderr)
        else:
            records += [record] * (record["stage"] == stage)
    return records


def _former_key(record: Record) -> str:
    """Return the key of records written before their whole content made it."""
    text = json.dumps([record["inputs"], record["outputs"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _upstream(stage: str) -> set[str]:
    stages = read_stages()
    makers = {output: name for name, each in stages.items() for output in each.outputs}
    names = {stage}
    for name in reversed(list(stages)):
        if name in names:
            names |= {makers[used] for used in stages[name].inputs if used in makers}
    return names
