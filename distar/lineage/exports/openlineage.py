"""Lineage as OpenLineage events (openlineage.io): one job a stage, within one run for the release.

Run ids are derived from what ran: exporting again tells the same, and a stage that several releases share is one run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import attrs
from openlineage.client import facet_v2
from openlineage.client.constants import __version__ as client_version
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import RunFacet
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider
from requests import HTTPError, RequestException

from distar.errors import StorageError
from distar.lineage.provenance import Statement
from distar.lineage.runs import Record
from distar.lineage.stated import Stated, commit_of, repository_of
from distar.secrets import without_secrets

NAMESPACE = "distar"
PRODUCER = "urn:distar:openlineage:v1"

_READ_BY = {  # the stage that reads a material, by the first part of the material's name
    "prompts": "prompts",
    "reference": "reference",
    "initial_generator": "reference",
    "rewards": "rewards",
    "fid": "rewards",
}
_RETRIES = {"total": 3, "read": 3, "connect": 3}  # the rest as the library has it: 5xx, with growing pauses


@attrs.define
class DistarRunFacet(RunFacet):
    """What a run had and cost, beyond the facets that OpenLineage defines."""

    commit: str | None
    changed: list[str]
    parameters: dict[str, Any]
    seeds: dict[str, int]
    device: dict[str, Any] | None
    machine: dict[str, Any]
    environment: dict[str, Any]
    flow_run: str | None
    processes: int
    cost_seconds: float

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}:run"


def events_of(statement: Statement) -> list[RunEvent]:
    """Tell a release's runs as events: the whole run starts, each stage starts and completes, the whole completes.

    Raises:
        ReleaseError: the statement holds no run.
    """
    statement = without_secrets(statement)
    stated = Stated.read_with_runs(statement)
    whole = Run(_run_id(f"release:{stated.release_id}"), {"tags": _tags(stated)})
    job = Job(NAMESPACE, stated.profile, {"jobType": _job_type("DAG"), "documentation": _documented(_about(stated))})
    return [
        _event(RunState.START, stated.started, whole, job),
        *(event for record in stated.runs for event in _events_of_stage(stated, record, whole, job)),
        _event(RunState.COMPLETE, stated.ended, whole, job),
    ]


def emit(events: Iterable[RunEvent], target: str) -> None:
    """Send events to an OpenLineage server (`http://…`, `https://…`), or append them to a file, one JSON a line.

    The server's key is taken from OPENLINEAGE_API_KEY; of the client's other settings none is used.

    Raises:
        StorageError: the target is none of these, cannot be reached or refuses.
    """
    if target.startswith(("http://", "https://")):
        _post(events, target)
    elif "://" not in target or target.startswith("file://"):
        _append(events, Path(target.removeprefix("file://")))
    else:
        raise StorageError(f"got {target!r}; expected a file, file://path, http://… or https://…")


def _events_of_stage(stated: Stated, record: Record, whole: Run, above: Job) -> list[RunEvent]:
    identity = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    run = Run(_run_id(f"run:{identity}"), _run_facets(record, whole, above))
    job = Job(NAMESPACE, f"{stated.profile}.{record['stage']}", _job_facets(stated, record))
    inputs = [*_datasets(InputDataset, record["inputs"]), *_materials_of(stated, record["stage"])]
    outputs = _datasets(OutputDataset, record["outputs"])
    return [
        _event(RunState.START, record["started"], run, job, inputs=inputs),
        _event(RunState.COMPLETE, record["ended"], run, job, inputs=inputs, outputs=outputs),
    ]


def _event(state: RunState, time: str, run: Run, job: Job, **datasets: Any) -> RunEvent:
    return RunEvent(eventType=state, eventTime=time, run=run, job=job, producer=PRODUCER, **datasets)


def _run_id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"urn:distar:{name}"))


def _facet(kind: Callable[..., Any], **values: Any) -> Any:
    return kind(producer=PRODUCER, **values)


def _about(stated: Stated) -> str:
    missing = f" Not recorded: {', '.join(stated.unrecorded)}." if stated.unrecorded else ""
    return f"The pipeline that made release {stated.release_id}.{missing}"


def _tags(stated: Stated) -> Any:
    tags = {"release": stated.release_id, "profile": stated.profile, "seed": str(stated.seed)}
    fields = [facet_v2.tags_run.TagsRunFacetFields(key, value, NAMESPACE) for key, value in tags.items()]
    return _facet(facet_v2.tags_run.TagsRunFacet, tags=fields)


def _job_type(kind: str) -> Any:
    return _facet(facet_v2.job_type_job.JobTypeJobFacet, processingType="BATCH", integration="DVC", jobType=kind)


def _documented(text: str) -> Any:
    return _facet(facet_v2.documentation_job.DocumentationJobFacet, description=text, contentType="text/plain")


def _job_facets(stated: Stated, record: Record) -> dict[str, Any]:
    facets = {
        "jobType": _job_type("TASK"),
        "documentation": _documented(f"Stage {record['stage']} of distar's pipeline, with profile {stated.profile}."),
    }
    if repository := repository_of(record):  # the facet cannot be without an address
        facets["sourceCodeLocation"] = _facet(
            facet_v2.source_code_location_job.SourceCodeLocationJobFacet,
            type="git",
            url=repository,
            repoUrl=repository,
            path="dvc.yaml",
            version=commit_of(record),
        )
    return facets


def _run_facets(record: Record, whole: Run, above: Job) -> dict[str, Any]:
    parent = facet_v2.parent_run
    return {
        "parent": _facet(
            parent.ParentRunFacet, run=parent.Run(whole.runId), job=parent.Job(above.namespace, above.name)
        ),
        "processing_engine": _facet(
            facet_v2.processing_engine_run.ProcessingEngineRunFacet,
            name="DVC",
            version=record["environment"]["libraries"].get("dvc", "unknown"),
            openlineageAdapterVersion=client_version,
        ),
        "distar": _facet(
            DistarRunFacet,
            commit=commit_of(record),
            changed=record["git"]["changed"] if record["git"] else [],
            seeds=record.get("seeds", {}),
            **{name: record[name] for name in ("parameters", "device", "machine", "environment")},
            **{name: record[name] for name in ("flow_run", "processes", "cost_seconds")},
        ),
    }


def _datasets(kind: type[InputDataset | OutputDataset], digests: Mapping[str, Mapping[str, Any] | None]) -> list[Any]:
    """Name the files and folders that were there, by their place in the project."""
    return [
        kind("file", path, facets={"version": _version(digest["sha256"])}, **_statistics(kind, digest))
        for path, digest in digests.items()
        if digest is not None
    ]


def _statistics(kind: type[InputDataset | OutputDataset], digest: Mapping[str, Any]) -> dict[str, Any]:
    values = {"size": digest["bytes"], "fileCount": digest["files"]}
    if kind is InputDataset:
        facet = _facet(facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet, **values)
        return {"inputFacets": {"inputStatistics": facet}}
    facet = _facet(facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet, **values)
    return {"outputFacets": {"outputStatistics": facet}}


def _materials_of(stated: Stated, stage: str) -> list[InputDataset]:
    """Name what came from outside: `s3://bucket` and the key, `hf://owner` and the path, `file` and the path."""
    datasets = []
    for material in stated.materials:
        if _READ_BY.get(material["name"].partition("/")[0]) != stage:
            continue
        scheme, place, path, *_ = urlsplit(material["uri"])
        namespace, name = ("file", place + path) if scheme == "file" else (f"{scheme}://{place}", path.lstrip("/"))
        datasets.append(InputDataset(namespace, name, facets={"version": _version(material["digest"]["sha256"])}))
    return datasets


def _version(sha256: str) -> Any:
    return _facet(facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet, datasetVersion=sha256)


def _post(events: Iterable[RunEvent], url: str) -> None:
    key = os.environ.get("OPENLINEAGE_API_KEY")
    config = HttpConfig.from_dict({"url": f"{url.rstrip('/')}/", "timeout": 30.0, "retry": _RETRIES})
    config.auth = ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({})
    transport = HttpTransport(config)
    try:
        for event in events:
            answer = transport.emit(event)
            if answer.history:  # a POST that is sent elsewhere arrives as a GET: the event would be lost
                raise StorageError(f"{url} sends to {answer.url}; give that server's address instead")
    except RequestException as error:
        raise StorageError(
            f"{url} did not take the events: {_told(error)}; exporting again repeats none, since runs keep their ids"
        ) from error
    finally:
        transport.close()


def _told(error: RequestException) -> str:
    if not isinstance(error, HTTPError) or error.response is None:
        return f"{error}; see whether the server is up, and its address right"
    status = error.response.status_code
    if status in {401, 403}:
        return f"it refuses the key ({status}); set OPENLINEAGE_API_KEY to one that may write"
    if status == 404:
        return f"it has no api/v1/lineage ({status}); give the server's address alone, as in http://host:5000"
    return f"it answers {status} ({error.response.text[:200]!r})"


def _append(events: Iterable[RunEvent], path: Path) -> None:
    """Append all events or none: what a file holds of a release whose export failed would read as the whole."""
    transport = FileTransport(FileConfig(str(path), append=True))
    before = path.stat().st_size if path.is_file() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for event in events:
            transport.emit(event)
    except (OSError, RuntimeError) as error:  # the transport's own errors are RuntimeErrors
        _take_back(path, before)
        raise StorageError(f"{path} does not take the events: {error}; give a file that may be written") from error


def _take_back(path: Path, before: int | None) -> None:
    """Leave a file as large as it was, or none where none was."""
    with suppress(OSError):  # it could not be written
        if before is not None:
            os.truncate(path, before)
        elif path.is_file():
            path.unlink()
