"""Exports of a release's lineage: OpenLineage events, a Workflow Run RO-Crate, an MLflow run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import torch
from openlineage.client.transport.file import FileTransport

from distar import paths
from distar.__main__ import STAGES, main
from distar.attesting import state_provenance
from distar.errors import DistarError, ParameterError, ReleaseError, StorageError
from distar.hashing import sha256_of
from distar.lineage.exports.mlflow import RELEASE_TAG, log_release
from distar.lineage.exports.openlineage import emit, events_of
from distar.lineage.exports.ro_crate import write_crate
from tests.miniature import git_init, make_project

UNPUBLISHED = [stage for stage in STAGES if stage != "publish"]


class Released(NamedTuple):
    project: Path
    folder: Path
    statement: dict[str, Any]

    @property
    def id(self) -> str:
        return self.statement["subject"][0]["digest"]["sha256"]

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        internal = self.statement["predicate"]["buildDefinition"]["internalParameters"]
        return {record["stage"]: record for record in internal["runs"]}

    def sha256(self, name: str) -> str:
        return next(s["digest"]["sha256"] for s in self.statement["subject"] if s["name"] == name)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory, miniature_models: Path) -> Released:
    """A packaged miniature with a git remote, and what its statement says."""
    folder = make_project(tmp_path_factory.mktemp("exports") / "project", miniature_models)
    git_init(folder, ["git", "remote", "add", "origin", "git@example.org:team/project.git"])
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with contextlib.chdir(folder):
        for stage in UNPUBLISHED:
            assert main([stage]) == 0
        statement = state_provenance(paths.RELEASE)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    return Released(folder, folder / paths.RELEASE, statement)


@pytest.fixture
def released(packaged: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Released:
    """Work in the project, with a copy of the release that a test may change."""
    monkeypatch.chdir(packaged.project)
    shutil.copytree(packaged.folder, tmp_path / "release")
    return Released(packaged.project, tmp_path / "release", deepcopy(packaged.statement))


@pytest.mark.parametrize("export", ["openlineage", "ro_crate", "mlflow"])
def test_what_is_no_statement_of_a_recorded_release_is_refused(export: str, released: Released, tmp_path: Path) -> None:
    def exported(statement: dict[str, Any]) -> Any:
        match export:
            case "openlineage":
                return events_of(statement)
            case "ro_crate":
                return write_crate(released.folder, statement, tmp_path / "crate")
            case "mlflow":
                return log_release(statement, released.folder, f"sqlite:///{tmp_path}/mlflow.db", "releases")

    with pytest.raises(ReleaseError, match="the statement does not have the form"):
        exported({"_type": "https://in-toto.io/Statement/v1", "predicate": {}})
    timeless = deepcopy(released.statement)
    del timeless["predicate"]["runDetails"]["metadata"]["finishedOn"]
    with pytest.raises(ReleaseError, match="not when they began and ended"):
        exported(timeless)
    released.statement["predicate"]["buildDefinition"]["internalParameters"]["runs"] = []
    with pytest.raises(ReleaseError, match="no recorded run"):
        exported(released.statement)
    assert {path.name for path in tmp_path.iterdir()} == {"release"}


@pytest.mark.parametrize("export", ["ro_crate", "mlflow"])
def test_files_that_are_not_those_stated_are_refused(export: str, released: Released, tmp_path: Path) -> None:
    def exported() -> None:
        if export == "ro_crate":
            write_crate(released.folder, released.statement, tmp_path / "crate")
        else:
            log_release(released.statement, released.folder, f"sqlite:///{tmp_path}/mlflow.db", "releases")

    metrics = released.folder / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0", "1"))
    with pytest.raises(ReleaseError, match=r"metrics\.json: expected sha256"):
        exported()
    metrics.unlink()
    with pytest.raises(ReleaseError, match=r"metrics\.json does not exist"):
        exported()
    assert {path.name for path in tmp_path.iterdir()} == {"release"}


# --- OpenLineage


def posted(released: Released) -> list[dict[str, Any]]:
    """The events of a release as they are written."""
    path = released.folder.parent / "events.jsonl"
    emit(events_of(released.statement), str(path))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    return events


def event_of(released: Released, job: str, state: str) -> dict[str, Any]:
    return next(e for e in posted(released) if e["job"]["name"] == job and e["eventType"] == state)


def facets_in(value: Any) -> Iterator[dict[str, Any]]:
    for key, content in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str) and key.lower().endswith("facets"):
            yield from content.values()
        if isinstance(content, dict | list):
            yield from facets_in(content)


def test_events_tell_each_stage_as_a_run_within_the_releases_run(released: Released) -> None:
    events = posted(released)
    told = [(event["job"]["name"], event["eventType"]) for event in events]
    stages = [(f"mini.{stage}", state) for stage in UNPUBLISHED for state in ("START", "COMPLETE")]
    assert told == [("mini", "START"), *stages, ("mini", "COMPLETE")]
    whole = events[0]["run"]
    assert {"key": "release", "value": released.id, "source": "distar"} in whole["facets"]["tags"]["tags"]
    assert len({event["run"]["runId"] for event in events}) == 1 + len(UNPUBLISHED)
    for event in events[1:-1]:
        record = released.runs[event["job"]["name"].removeprefix("mini.")]
        assert event["eventTime"] == record["started" if event["eventType"] == "START" else "ended"]
        assert UUID(event["run"]["runId"]).version == 5
        parent = event["run"]["facets"]["parent"]
        assert (parent["run"]["runId"], parent["job"]["name"]) == (whole["runId"], "mini")
    assert posted(released) == events  # exported again: the same runs


def test_another_run_has_another_id(released: Released) -> None:
    before = event_of(released, "mini.train", "START")["run"]["runId"]
    released.runs["train"]["seeds"]["seed"] = 1
    assert event_of(released, "mini.train", "START")["run"]["runId"] != before


def test_datasets_are_named_by_place_and_versioned_by_content(released: Released) -> None:
    trained, record = event_of(released, "mini.train", "COMPLETE"), released.runs["train"]
    for datasets, digests in ((trained["inputs"], record["inputs"]), (trained["outputs"], record["outputs"])):
        versions = {dataset["name"]: dataset["facets"]["version"]["datasetVersion"] for dataset in datasets}
        assert versions == {place: digest["sha256"] for place, digest in digests.items() if digest}
        assert {dataset["namespace"] for dataset in datasets} == {"file"}
    statistics = trained["outputs"][0]["outputFacets"]["outputStatistics"]
    assert statistics["size"] == record["outputs"]["outputs/generator"]["bytes"]
    started = event_of(released, "mini.train", "START")
    assert (started["inputs"], started["outputs"]) == (trained["inputs"], [])


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("file://models/reference/unet/config.json", "file", "models/reference/unet/config.json"),
        ("file:///data/unet/config.json", "file", "/data/unet/config.json"),
        ("s3://bucket/models/unet/config.json", "s3://bucket", "models/unet/config.json"),
        ("hf://owner/name@0123/unet/config.json", "hf://owner", "name@0123/unet/config.json"),
    ],
)
def test_what_came_from_outside_is_an_input_of_the_stage_that_fetched_it(
    released: Released, uri: str, namespace: str, name: str
) -> None:
    materials = released.statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    material = next(entry for entry in materials if entry["name"] == "reference/unet/config.json")
    material["uri"] = uri
    inputs = event_of(released, "mini.reference", "COMPLETE")["inputs"]
    dataset = next(entry for entry in inputs if (entry["namespace"], entry["name"]) == (namespace, name))
    assert dataset["facets"]["version"]["datasetVersion"] == material["digest"]["sha256"]
    assert "prompts/train.txt" in {entry["name"] for entry in event_of(released, "mini.prompts", "START")["inputs"]}


def test_facets_tell_code_engine_parameters_device_seeds_and_cost(released: Released) -> None:
    event, record = event_of(released, "mini.train", "COMPLETE"), released.runs["train"]
    code = event["job"]["facets"]["sourceCodeLocation"]
    assert (code["type"], code["url"]) == ("git", "ssh://git@example.org/team/project.git")
    assert code["version"] == record["git"]["commit"]
    assert event["job"]["facets"]["jobType"]["processingType"] == "BATCH"
    assert "Stage train" in event["job"]["facets"]["documentation"]["description"]
    run = event["run"]["facets"]
    assert (run["processing_engine"]["name"], run["processing_engine"]["version"]) == (
        "DVC",
        record["environment"]["libraries"]["dvc"],
    )
    assert run["distar"]["parameters"]["profiles/mini.yaml"]["train"]["num_steps"] == 4
    assert run["distar"]["seeds"] == {"seed": 0}
    assert run["distar"]["device"]["type"] == "cpu"
    assert run["distar"]["cost_seconds"] == record["cost_seconds"]
    assert "environmentVariables" not in run
    facets = list(facets_in(posted(released)))
    assert len(facets) > 100
    assert {facet["_producer"] for facet in facets} == {"urn:distar:openlineage:v1"}
    assert all(facet["_schemaURL"].startswith(("https://openlineage.io/", "urn:distar:")) for facet in facets)


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://example.org/team/project.git", "https://example.org/team/project.git"),
        ("git@example.org:team/project.git", "ssh://git@example.org/team/project.git"),
        ("/srv/git/project.git", "file:///srv/git/project.git"),
    ],
)
def test_the_repository_is_named_by_a_url(released: Released, remote: str, url: str) -> None:
    released.runs["train"]["git"]["remote"] = remote
    assert event_of(released, "mini.train", "START")["job"]["facets"]["sourceCodeLocation"]["url"] == url
    released.runs["train"]["git"] = None  # an exported tree without git
    event = event_of(released, "mini.train", "START")
    assert "sourceCodeLocation" not in event["job"]["facets"]
    assert event["run"]["facets"]["distar"]["changed"] == []


def test_events_are_appended_to_a_file(released: Released, tmp_path: Path) -> None:
    events = events_of(released.statement)
    emit(events, str(tmp_path / "new" / "events.jsonl"))
    emit(events, f"file://{tmp_path}/new/events.jsonl")
    lines = (tmp_path / "new" / "events.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(events)
    assert lines[: len(events)] == lines[len(events) :]


@pytest.mark.parametrize(
    ("target", "told"), [(".", "does not take the events"), ("s3://bucket/events", "expected a file")]
)
def test_a_target_that_takes_no_events_is_told(released: Released, target: str, told: str) -> None:
    with pytest.raises(StorageError, match=told):
        emit(events_of(released.statement), target)


@pytest.mark.parametrize("before", [None, b"another's\n"])
def test_events_that_the_disk_does_not_hold_are_taken_back(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    path = tmp_path / "events.jsonl"
    if before is not None:
        path.write_bytes(before)

    def refuse(*_: Any) -> None:
        with path.open("ab") as file:
            file.write(b'{"half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileTransport, "emit", refuse)
    with pytest.raises(StorageError, match="No space left"):
        emit(events_of(released.statement), str(path))
    assert (path.read_bytes() if path.exists() else None) == before


class Server(NamedTuple):
    url: str
    requests: list[tuple[str, str | None, dict[str, Any]]]  # path, Authorization, event
    answers: list[int]  # the next statuses; 201 when there is none left


@pytest.fixture
def server() -> Iterator[Server]:
    """An HTTP server that keeps what is posted to it."""
    requests: list[tuple[str, str | None, dict[str, Any]]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(answers.pop(0) if answers else 201)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{http.server_address[1]}", requests, answers)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_events_are_posted_with_the_key_and_nowhere_else(
    released: Released, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "the-key")
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "console")
    monkeypatch.chdir(tmp_path)
    Path("openlineage.yml").write_text("transport: {type: http, url: 'http://127.0.0.1:9'}\n")
    emit(events_of(released.statement), server.url)
    assert {(path, key) for path, key, _ in server.requests} == {("/api/v1/lineage", "Bearer the-key")}
    assert [event for _, _, event in server.requests] == posted(released)


def test_a_server_behind_a_path_is_found_and_needs_no_key(
    released: Released, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENLINEAGE_API_KEY", raising=False)
    emit(events_of(released.statement)[:1], f"{server.url}/lineage-server")
    assert [(path, key) for path, key, _ in server.requests] == [("/lineage-server/api/v1/lineage", None)]


def test_a_passing_failure_loses_no_event(released: Released, server: Server) -> None:
    server.answers.extend([201, 500])
    emit(events_of(released.statement), server.url)
    events = [event for _, _, event in server.requests]
    assert events[1] == events[2]
    assert [*events[:2], *events[3:]] == posted(released)


@pytest.mark.parametrize(
    ("answers", "requests", "told"),
    [
        ([401], 1, "OPENLINEAGE_API_KEY"),
        ([404], 1, "give the server's address alone"),
        ([422], 1, "answers 422"),
        ([302], 1, "give that server's address"),
        ([503] * 10, 4, "see whether the server is up"),
    ],
)
def test_a_server_that_refuses_is_told_and_tried_no_more_than_four_times(
    released: Released, server: Server, answers: list[int], requests: int, told: str
) -> None:
    server.answers.extend(answers)
    with pytest.raises(StorageError, match=told):
        emit(events_of(released.statement), server.url)
    assert len(server.requests) == requests


def test_the_password_in_an_address_is_not_told(released: Released) -> None:
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9 did not take") as told:
        emit(events_of(released.statement), "http://robot:swordfish@127.0.0.1:9")
    assert "swordfish" not in str(told.value)


# --- RO-Crate


@pytest.fixture
def crate(released: Released, tmp_path: Path) -> Path:
    write_crate(released.folder, released.statement, tmp_path / "crate")
    return tmp_path / "crate"


def entities(crate: Path) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}


def ids(references: Any) -> list[str]:
    return [reference["@id"] for reference in (references if isinstance(references, list) else [references])]


def contexts() -> dict[str, dict[str, str]]:
    """The two contexts that a crate names, for a validator without a network.

    Of RO-Crate 1.1's, what later versions (the library ships one) define otherwise and the profiles look for.
    """
    import rocrate

    later = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())["@context"]
    bioschemas, run = "https://bioschemas.org/", "https://w3id.org/ro/terms/workflow-run#"
    changed = {name: f"{bioschemas}{name}" for name in ("ComputationalWorkflow", "FormalParameter")}
    changed |= {name: f"{bioschemas}ComputationalWorkflow#{name}" for name in ("input", "output")}
    return {
        "https://w3id.org/ro/crate/1.1/context": {**later, **changed},
        "https://w3id.org/ro/terms/workflow-run/context": {name: run + name for name in ("sha256", "resourceUsage")},
    }


def issues(crate: Path, severity: str = "REQUIRED") -> list[str]:
    """What the validator finds in a crate that claims to be a Provenance Run Crate, and all that this is built on."""
    from requests_cache import CachedRequest, CachedResponse
    from rocrate_validator import services
    from rocrate_validator.utils.http import HttpRequester

    settings = services.ValidationSettings(
        rocrate_uri=str(crate),  # pyright: ignore[reportArgumentType]
        profile_identifier="provenance-run-crate",
        requirement_severity=severity,
        offline=True,
        cache_path=crate.parent / "cache",
    )
    session = HttpRequester().session
    for url, context in contexts().items():
        response = CachedResponse(
            url=url,
            status_code=200,
            content=json.dumps({"@context": context}).encode(),  # pyright: ignore[reportCallIssue]
            headers={"Content-Type": "application/ld+json"},
            request=CachedRequest(method="GET", url=url),
        )
        session.cache.save_response(response)
    try:
        return [f"{issue.check.identifier}: {issue.message}" for issue in services.validate(settings).get_issues()]
    finally:
        session.close()


@pytest.mark.filterwarnings("ignore:.* is deprecated, use Dataset instead:DeprecationWarning")  # the validator's rdflib
def test_a_crate_is_a_valid_provenance_run_crate(crate: Path) -> None:
    assert issues(crate) == []
    profiles = ids(entities(crate)["./"]["conformsTo"])
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in profiles
    assert "https://w3id.org/ro/wfrun/provenance/0.5" in profiles

    # and the validator would have seen it
    metadata = crate / "ro-crate-metadata.json"
    document = json.loads(metadata.read_text())
    for entity in document["@graph"]:
        if entity["@id"] in {"#run", "#run/train", "#step/train"}:
            del entity["instrument" if entity["@type"] == "CreateAction" else "workExample"]
    metadata.write_text(json.dumps(document))
    assert {issue.partition("_")[0] for issue in issues(crate)} == {
        "process-run-crate-0.5",
        "workflow-run-crate-0.5",
        "provenance-run-crate-0.5",
    }


def test_a_crate_holds_release_statement_and_the_workflow_of_its_commit(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shutil.copytree(released.project, tmp_path / "project")
    monkeypatch.chdir(project)
    committed = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text("stages: {}\n")
    crate = tmp_path / "crate"
    write_crate(released.folder, released.statement, crate)
    assert (crate / "dvc.yaml").read_text() == committed
    assert json.loads((crate / "statement.json").read_text()) == released.statement
    described = entities(crate)
    for subject in released.statement["subject"]:
        path = f"release/{subject['name']}"
        assert sha256_of(crate / path) == described[path]["sha256"] == subject["digest"]["sha256"]
        assert described[path]["contentSize"] == str((crate / path).stat().st_size)
        assert (crate / path).samefile(released.folder / subject["name"])  # no second copy of the weights
    written = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert written == {
        "ro-crate-metadata.json",
        "dvc.yaml",
        "statement.json",
        *(f"release/{subject['name']}" for subject in released.statement["subject"]),
    }
    shutil.rmtree(".git")
    write_crate(released.folder, released.statement, tmp_path / "without git")
    assert (tmp_path / "without git" / "dvc.yaml").read_text() == "stages: {}\n"


def test_a_crate_without_a_workflow_is_not_written(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ParameterError, match="run from the project's top folder"):
        write_crate(released.folder, released.statement, Path("crate"))
    assert list(Path().iterdir()) == []


def test_a_crate_tells_what_each_stage_used_made_and_cost(released: Released, crate: Path) -> None:
    described = entities(crate)
    action, record = described["#run/train"], released.runs["train"]
    assert (action["startTime"], action["endTime"]) == (record["started"], record["ended"])
    used = [described[place] for place in ids(action["object"])]
    inputs = {entity["name"]: entity["sha256"] for entity in used if entity["@type"] == "CreativeWork"}
    assert inputs == {place: digest["sha256"] for place, digest in record["inputs"].items() if digest}
    values = {entity["name"]: entity["value"] for entity in used if entity["@type"] == "PropertyValue"}
    assert values["train.num_steps"] == 4
    assert values["seed"] == 0
    assert "package.name" not in values
    made = described[ids(action["result"])[0]]
    assert made["sha256"] == record["outputs"]["outputs/generator"]["sha256"]
    assert described["#usage/train/cost_seconds"]["value"] == record["cost_seconds"]
    assert "release/metrics.json" in ids(described["#run/evaluate"]["result"])
    assert ids(described["#run/package"]["result"]) == ["release/"]
    assert ids(described["#run"]["result"]) == ["release/"]
    materials = {described[place]["name"] for place in ids(described["#run"]["object"])}
    assert {"code", "environment", "prompts/train", "reference/unet/config.json"} <= materials
    assert described["#licence"]["name"] == "apache-2.0"
    assert described["dvc.yaml"]["version"] == record["git"]["commit"]
    assert described["dvc.yaml"]["url"] == "ssh://git@example.org/team/project.git"


def test_a_crate_holds_copies_where_links_cannot_be(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    write_crate(released.folder, released.statement, tmp_path / "crate")
    name = "unet/diffusion_pytorch_model.safetensors"
    assert sha256_of(tmp_path / "crate" / "release" / name) == released.sha256(name)
    assert not (tmp_path / "crate" / "release" / name).samefile(released.folder / name)


def test_a_crate_takes_no_existing_folders_place(released: Released, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("content")
    with pytest.raises(StorageError, match="mine exists"):
        write_crate(released.folder, released.statement, tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "content"


# --- MLflow


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def test_a_release_is_one_run_with_its_figures_and_files(
    released: Released, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # a database alone puts artifacts beside where it is used
    external = released.statement["predicate"]["buildDefinition"]["externalParameters"]["parameters"]
    external["many"] = {f"parameter_{i}": i for i in range(150)} | {
        "words": "word " * 2000
    }  # more than one request takes
    run_id = log_release(released.statement, released.folder, tracking, "complete")
    client = MlflowClient(tracking)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_steps"] == "4"
    assert run.data.params["profile"] == "mini"
    assert json.loads(run.data.params["package.licences"])["file://models/reference"] == "apache-2.0"
    assert run.data.params["many.parameter_149"] == "149"
    assert run.data.params["many.words"].startswith("word word")
    metrics = json.loads((released.folder / "metrics.json").read_text())
    assert (
        run.data.metrics["generator.rewards.preference.mean"] == metrics["generator"]["rewards"]["preference"]["mean"]
    )
    assert run.data.metrics["cost_seconds"] == pytest.approx(sum(r["cost_seconds"] for r in released.runs.values()))
    assert run.data.tags[RELEASE_TAG] == released.id
    assert run.data.tags["mlflow.source.git.commit"] == released.runs["train"]["git"]["commit"]
    whole = released.statement["predicate"]["runDetails"]["metadata"]
    begun, ended = (datetime.fromisoformat(whole[name]).timestamp() for name in ("startedOn", "finishedOn"))
    assert (run.info.start_time, run.info.end_time) == (round(begun * 1000), round(ended * 1000))
    files = {entry.path for entry in client.list_artifacts(run_id)}
    assert files == {
        "LICENCES.md", "README.md", "bom.cdx.json", "card.json", "index.html", "manifest.json", "metrics.json",
        "model_index.json", "params.yaml", "samples.png", "scores.csv", "statement.json",
    }  # fmt: skip
    assert json.loads(Path(client.download_artifacts(run_id, "statement.json")).read_text()) == released.statement

    # A second export finds it
    assert log_release(released.statement, released.folder, tracking, "complete") == run_id
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_an_interrupted_export_is_completed(
    released: Released, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    client = MlflowClient(tracking)
    experiment = client.create_experiment("interrupted")
    begun = client.create_run(experiment, tags={RELEASE_TAG: released.id})
    client.log_param(begun.info.run_id, "profile", "mini")
    assert log_release(released.statement, released.folder, tracking, "interrupted") == begun.info.run_id
    run = client.get_run(begun.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_steps"] == "4"
    assert "samples.png" in {entry.path for entry in client.list_artifacts(run.info.run_id)}


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://robot:swordfish@127.0.0.1:9", r"MLflow at http://127\.0\.0\.1:9 did not take the release"),
        ("sqlite:///metrics.json", "file is not a database"),
        ("mysql+nosuchdriver://robot:swordfish@127.0.0.1/mlflow", "nosuchdriver"),
    ],
)
def test_a_tracking_server_that_takes_nothing_is_told(
    released: Released, monkeypatch: pytest.MonkeyPatch, uri: str, told: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=told) as error:
        log_release(released.statement, released.folder, uri, "releases")
    assert "swordfish" not in str(error.value)


def test_a_missing_mlflow_is_told(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(DistarError, match=r"pip install 'distar\[mlflow\]'"):
        log_release(released.statement, released.folder, "sqlite:///mlflow.db", "releases")
