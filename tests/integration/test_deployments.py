"""Served deployments and a real Prefect server: runs that begin by themselves, on events, and one after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Cancelling

from distar.release.releases import find, move
from distar.release.storage import open_store
from tests.integration.prefect_server import prefect_server, process, wait_for
from tests.miniature import edit, git

WATCH = ArtifactFilter(key=ArtifactFilterKey(any_=["watch"]))


@dataclass(frozen=True)
class Served:
    """A miniature project that is served."""

    project: Path
    champion: str
    client: SyncPrefectClient
    environment: dict[str, str]

    def python(self, *arguments: str) -> int:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=self.project, env={**os.environ, **self.environment}, check=False).returncode

    def begin(self, name: str, **parameters: Any) -> FlowRun:
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def a_run(self, name: str, which: Callable[[FlowRun], bool]) -> FlowRun:
        """Wait until a run has begun."""
        named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))

        def found() -> FlowRun | None:
            runs = self.client.read_flow_runs(deployment_filter=named)
            return next((run for run in runs if run.start_time and which(run)), None)

        return wait_for(f"a run of {name}", found)

    def stop(self, run: FlowRun) -> None:
        """Cancel a run that was to begin and no more; wait until it has ended."""
        self.client.set_flow_run_state(run.id, Cancelling(), force=True)
        self.end_of(run)

    def watched(self) -> list[dict[str, Any]]:
        """Read the series of the watch."""
        (artifact, *_) = self.client.read_artifacts(artifact_filter=WATCH, sort=ArtifactSort.UPDATED_DESC)
        return json.loads(str(artifact.data))

    def end_of(self, run: FlowRun) -> FlowRun:
        """Wait until a run has ended."""

        def found() -> FlowRun | None:
            now = self.client.read_flow_run(run.id)
            return now if now.state and now.state.is_final() else None

        return wait_for(f"{run.name} ends", found)


@pytest.fixture(scope="module")
def served(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a project with a champion, which is watched at short intervals, from a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    project = shutil.copytree(reproduced_once, folder / "project", symlinks=True)
    store = open_store(f"file://{project}/published")
    champion = find(store, "latest")
    move(store, "champion", champion, None)
    watch = {"interval_seconds": 10, "prompts": None, "margin": 3.0}
    edit(project / "params.yaml", "retrain", "watch", value=watch)
    git(project, "commit", "-qam", "Watch")
    (folder / "server").mkdir()
    log = folder / "log"
    with prefect_server(folder / "server") as url:
        environment = {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder / "client")}
        with (
            process(["flows.deployments", "serve"], project, log, environment) as serving,
            temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: folder / "client"}),
            get_client(sync_client=True) as client,
        ):
            wait_for("it is served", lambda: serving.poll() is not None or "being served" in log.read_text())
            assert serving.poll() is None, log.read_text()
            yield Served(project, champion, client, environment)


def test_champion_is_watched_on_schedule(served: Served) -> None:
    run = served.a_run("watch", lambda run: run.auto_scheduled)
    deployment = served.client.read_deployment_by_name("distar-watch/watch")
    for schedule in served.client.read_deployment_schedules(deployment.id):
        served.client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    ended = served.end_of(run)
    assert ended.state_name == "Completed", ended.state
    row = served.watched()[0]
    assert (row["release"], row["alias"], row["regressed"]) == (served.champion, "champion", False)
    assert row["mean"] == pytest.approx(row["mean_before"], rel=1e-4)


def test_published_prompts_set_off_a_retrain(served: Served) -> None:
    assert served.python("flows.promptset", "recent") == 0
    announced = time.time()
    run = served.a_run("retrain", lambda run: run.parameters["reason"].startswith("distar.promptset"))
    assert run.start_time
    print(f"the retrain began {run.start_time.timestamp() - announced:.1f} s after the announcement")
    assert run.parameters["reason"] == "distar.promptset.published: distar.promptset.recent"
    served.stop(run)


def test_a_fall_of_the_reward_is_told_and_sets_off_a_retrain(served: Served) -> None:
    row = served.watched()[-1]
    prompts = served.project / "recent.txt"
    prompts.write_text("a red star on white\na teal moon on sand\n")
    better = row | {"prompts": str(prompts), "mean_before": row["mean_before"] + 1000}
    served.client.create_artifact(ArtifactCreate(key="watch", type="table", data=json.dumps([better])))
    assert served.python("flows.watch", "--prompts", "file://recent.txt") == 2
    run = served.a_run("retrain", lambda run: run.parameters["reason"].startswith("distar.reward"))
    assert run.parameters["reason"] == f"distar.reward.regressed: distar.release.{served.champion}"
    served.stop(run)
    told = served.watched()[-1]
    assert told["regressed"]
    assert told["mean_before"] == better["mean_before"]


def test_what_needs_the_gpu_runs_one_after_the_other(served: Served) -> None:
    runs = [served.begin("distar-watch/watch"), served.begin("distar-watch/watch")]
    for run in runs:
        assert served.end_of(run).state_name == "Completed"
    query = {"filter": {"event": {"prefix": ["prefect.concurrency-limit."]}}, "limit": 50}
    events = served.client._client.post("/events/filter", json=query).json()["events"]
    taken = [event["event"].rpartition(".")[2] for event in sorted(events, key=lambda event: event["occurred"])]
    assert taken.count("acquired") >= 3
    assert "acquired acquired" not in " ".join(taken)


def test_a_failed_run_is_told_through_a_block(served: Served) -> None:
    bodies: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.put(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as hook:
        Thread(target=hook.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hook.server_port}"
        message = {"text": "{{subject}} {{body}}"}
        block: Any = CustomWebhookNotificationBlock  # its fields have defaults that the type checker does not see
        block(name="on call", url=url, json_data=message).save("on-call")
        assert served.python("flows.deployments", "notify", "--block", "custom-webhook/nobody") == 1
        for _ in range(2):  # the second replaces the first
            assert served.python("flows.deployments", "notify", "--block", "custom-webhook/on-call") == 0
        run = served.begin("distar-watch/watch", alias="nobody")
        assert served.end_of(run).state_name == "Failed"
        body = bodies.get(timeout=30)
        hook.shutdown()
    assert "prefect.flow-run.Failed" in body
    assert run.name in body
    assert bodies.empty()
