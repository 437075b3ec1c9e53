"""The Prefect flow over a miniature DVC project: every stage a task, results as artifacts, processes that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from distar.__main__ import STAGES
from flows.commands import CommandError, stream
from tests.miniature import record_of, with_pipeline


@pytest.fixture
def dvc_project(project: Path) -> Path:
    """Turn the miniature into a git and DVC project with the real dvc.yaml and code."""
    with_pipeline(project)
    return project


def test_flow_runs_every_stage_and_leaves_artifacts(dvc_project: Path) -> None:
    from prefect.artifacts import Artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import TaskRunSort

    from flows.pipeline import pipeline, stages

    order = stages()
    assert sorted(order) == sorted(STAGES)
    assert order.index("train") > order.index("reference")
    assert order[-2:] == ["package", "publish"]
    with prefect_test_harness():
        pipeline()
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(limit=200, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
        artifacts = {key for key in ("metrics", "samples", "release") if Artifact.get(key)}
    assert {run.name for run in runs} >= set(STAGES)
    assert {record_of(stage)["flow_run"] for stage in STAGES} == {str(run.flow_run_id) for run in runs}
    assert artifacts == {"metrics", "samples", "release"}
    status = [sys.executable, "-m", "dvc", "status", "-q"]
    assert subprocess.run(status, check=False).returncode == 0


def test_stream_hands_over_lines_and_names_the_failure() -> None:
    lines: list[str] = []
    stream([sys.executable, "-c", "print('one'); print('two')"], lines.append)
    assert lines == ["one", "two"]
    with pytest.raises(CommandError, match="status 3"):
        stream([sys.executable, "-c", "raise SystemExit(3)"], lines.append)


def test_interrupted_stream_leaves_no_process(tmp_path: Path) -> None:
    """A grandchild that outlives its parent is what cancelled flows leave behind elsewhere."""
    pid_path = tmp_path / "pid"
    child = f"""
import os, pathlib, time
pathlib.Path({str(pid_path)!r}).write_text(str(os.getpid()))
print("up", flush=True)
time.sleep(60)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        stream([sys.executable, "-c", parent], interrupt)
    pid = int(pid_path.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the grandchild is still alive")
