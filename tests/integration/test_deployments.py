"""Served deployments, a real Prefect server and a real S3 server: a night without anybody, from schedule to champion.

Runs begin by themselves, on events, and one after the other; a cancelled one leaves nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    DeploymentFilter,
    DeploymentFilterName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Cancelling

from distar.locking import held_if_free
from distar.paths import WORKTREE_PREFIX
from distar.release.releases import read_alias, release_ids, verify
from distar.release.storage import Store, open_store
from tests.integration.conftest import S3Server, client_of
from tests.integration.prefect_server import AUTH_STRING, prefect_server, process, wait_for
from tests.miniature import REPOSITORY, edit, git, with_gain

STORE = "s3://served/releases"
WATCH = ArtifactFilter(key=ArtifactFilterKey(any_=["watch"]))


@dataclass(frozen=True)
class Served:
    """A miniature project that is served, and publishes to S3."""

    project: Path
    store: Store
    client: SyncPrefectClient
    environment: dict[str, str]
    serving: subprocess.Popen[bytes]

    @property
    def champion(self) -> str | None:
        return read_alias(self.store, "champion").release

    def python(self, *arguments: str) -> int:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=self.project, env={**os.environ, **self.environment}, check=False).returncode

    def begin(self, name: str, **parameters: Any) -> FlowRun:
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def by_itself(self, name: str, active: bool) -> None:
        """Let a deployment begin by its schedule, or no more."""
        deployment = self.client.read_deployment_by_name(name)
        for schedule in self.client.read_deployment_schedules(deployment.id):
            self.client.update_deployment_schedule(deployment.id, schedule.id, active=active)

    def a_run(self, name: str, which: Callable[[FlowRun], bool]) -> FlowRun:
        """Wait until a run has begun."""
        named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))

        def found() -> FlowRun | None:
            runs = self.client.read_flow_runs(deployment_filter=named)
            return next((run for run in runs if run.start_time and which(run)), None)

        return wait_for(f"a run of {name}", found)

    def cancel(self, run: FlowRun) -> None:
        """Cancel a run, and see that nothing of it is left."""
        self.client.set_flow_run_state(run.id, Cancelling(), force=True)
        assert self.end_of(run).state_name == "Cancelled"
        wait_for("all of it ends", self.is_clean)

    def running(self, *words: str) -> bool:
        """Tell whether a process of this project's runs is `python -m WORDS`."""
        command = b"\0".join(word.encode() for word in ("-m", *words))
        temporary = f"TMPDIR={self.environment['TMPDIR']}".encode()
        for found in Path("/proc").glob("[0-9]*"):
            try:
                if command in (found / "cmdline").read_bytes() and temporary in (found / "environ").read_bytes():
                    return True
            except OSError:  # it ended meanwhile
                continue
        return False

    def is_clean(self) -> bool:
        """Tell whether the workspace is as it was committed, with no process and no worktree of a run beside it."""
        worktrees = git(self.project, "worktree", "list").count("\n")
        temporary = [
            path for path in Path(self.environment["TMPDIR"]).iterdir() if path.name.startswith(WORKTREE_PREFIX)
        ]
        status = git(self.project, "status", "--porcelain", "--untracked-files=no")
        return not (self.running("distar") or self.running("distar.dvc") or worktrees > 1 or temporary or status)

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
def served(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Served]:
    """Serve a project that retrains each minute and is watched each ten seconds, from a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    project = shutil.copytree(reproduced_once, folder / "project", symlinks=True)
    with_gain(project, num_steps=12)
    schedule = {"cron": "* * * * *", "timezone": "UTC", "jitter_seconds": 2}
    edit(project / "params.yaml", "retrain", "schedule", value=schedule)
    watch = {"interval_seconds": 10, "prompts": None, "margin": 3.0}
    edit(project / "params.yaml", "retrain", "watch", value=watch)
    git(project, "commit", "-qam", "Retrain and watch")
    client_of(s3_server).create_bucket(Bucket="served")
    (folder / "server").mkdir()
    (folder / "temporary").mkdir()
    log = folder / "log"
    of_s3 = {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with prefect_server(folder / "server") as url:
        of_prefect = {
            "PREFECT_API_URL": url,
            "PREFECT_API_AUTH_STRING": AUTH_STRING,
            "PREFECT_HOME": str(folder / "client"),
        }
        environment = {**of_prefect, **of_s3, "TMPDIR": str(folder / "temporary")}
        serve = ["flows.deployments", "serve", "--store", STORE]
        with (
            pytest.MonkeyPatch.context() as patch,
            process(serve, project, log, environment) as serving,
            temporary_settings(
                {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: AUTH_STRING, PREFECT_HOME: folder / "client"}
            ),
            get_client(sync_client=True) as client,
        ):
            for name, value in of_s3.items():
                patch.setenv(name, value)
            wait_for("it is served", lambda: serving.poll() is not None or "being served" in log.read_text())
            assert serving.poll() is None, log.read_text()
            served = Served(project, open_store(STORE), client, environment, serving)
            served.by_itself("distar-watch/watch", active=False)  # there is no champion yet
            yield served


def test_a_schedule_retrains_publishes_and_promotes_without_anybody(served: Served) -> None:
    run = served.a_run("retrain", lambda run: run.auto_scheduled)
    served.by_itself("distar-retrain/retrain", active=False)
    ended = served.end_of(run)
    assert ended.state_name == "Promoted", ended.state
    assert ended.parameters["reason"] == "on schedule"
    assert [served.champion] == release_ids(served.store)
    assert read_alias(served.store, "latest").release == served.champion
    assert verify(served.store, str(served.champion)) == []
    (recorded,) = git(served.project, "for-each-ref", "--format=%(subject)", "refs/heads/retrain").splitlines()
    assert recorded == f"Retrain: release {served.champion:.12} passes the gate"
    assert served.is_clean()
    commit = git(served.project, "rev-parse", "--short=12", "HEAD").strip()
    assert {"profile:mini", f"commit:{commit}"} < {*ended.tags}
    artifacts = served.client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[ended.id]))
    )
    assert {artifact.key for artifact in artifacts} >= {"timings", "metrics", "samples", "retrain"}


def test_champion_is_watched_on_schedule(served: Served) -> None:
    served.by_itself("distar-watch/watch", active=True)
    begun = str(datetime.now(UTC))
    run = served.a_run("watch", lambda run: run.auto_scheduled and str(run.start_time) > begun)
    served.by_itself("distar-watch/watch", active=False)
    ended = served.end_of(run)
    assert ended.state_name == "Completed", ended.state
    row = served.watched()[0]
    assert (row["release"], row["alias"], row["regressed"]) == (served.champion, "champion", False)
    assert row["mean"] == pytest.approx(row["mean_before"], rel=1e-4)


def test_published_prompts_set_off_a_retrain(served: Served) -> None:
    assert served.python("flows.promptset", "recent") == 0
    announced = time.time()
    run = served.a_run("retrain", lambda run: run.parameters.get("reason", "").startswith("distar.promptset"))
    assert run.start_time
    print(f"the retrain began {run.start_time.timestamp() - announced:.1f} s after the announcement")
    assert run.parameters["reason"] == "distar.promptset.published: distar.promptset.recent"
    served.cancel(run)


def test_a_cancelled_training_leaves_nothing(served: Served) -> None:
    def checkpoints() -> set[Path]:
        return {*served.project.glob(".distar/retrain/*/iteration-*.pt")}

    before = checkpoints()
    run = served.begin("distar-retrain/retrain", changes={"train.num_steps": 100_000})
    assert run.parameters["store"] == STORE, "changes replace no store"
    wait_for("a checkpoint", lambda: checkpoints() - before)
    assert served.running("distar", "train")
    served.cancel(run)
    for lock in served.project.glob(".distar/retrain/*/lock"):
        with held_if_free(lock) as free:
            assert free
    assert served.client.read_global_concurrency_limit_by_name("gpu").active_slots == 0


def test_a_fall_of_the_reward_is_told_and_sets_off_a_retrain(served: Served) -> None:
    row = served.watched()[-1]
    prompts = served.project / "recent.txt"
    prompts.write_text("a red star on white\na teal moon on sand\n")
    better = row | {"prompts": str(prompts), "mean_before": row["mean_before"] + 1000}
    served.client.create_artifact(ArtifactCreate(key="watch", type="table", data=json.dumps([better])))
    assert served.python("flows.watch", "--prompts", "file://recent.txt", "--store", STORE) == 2
    run = served.a_run("retrain", lambda run: run.parameters.get("reason", "").startswith("distar.reward"))
    assert run.parameters["reason"] == f"distar.reward.regressed: distar.release.{served.champion}"
    served.cancel(run)
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


def test_commands_that_operators_are_told_are_understood(served: Served) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    told = re.findall(r"`prefect ((?:deployment schedule|global-concurrency-limit|work-pool) [^`]+)`", text)
    assert len(told) >= 6
    served.client.delete_global_concurrency_limit_by_name("gpu")
    for command in sorted(told):  # a limit is created before it is updated
        words = shlex.split(command.replace("--limit N", "--limit 1"))
        words = [str(REPOSITORY / word) if word.startswith("deploy/") else word for word in words]
        assert served.python("prefect", "--no-prompt", *words) == 0, command


def test_serving_that_is_told_to_end_ends_its_runs_and_says_so(served: Served) -> None:
    """The last test: after it nothing is served."""
    served.by_itself("distar-retrain/retrain", active=False)
    run = served.begin("distar-retrain/retrain", changes={"train.num_steps": 100_000})
    wait_for("it trains", lambda: served.running("distar", "train"))
    served.serving.terminate()
    assert served.serving.wait(90) == 0
    assert served.client.read_flow_run(run.id).state_name == "Cancelled"
    assert served.client.read_global_concurrency_limit_by_name("gpu").active_slots == 0
    assert served.is_clean()
    assert served.client.read_deployment_by_name("distar-watch/watch").paused
