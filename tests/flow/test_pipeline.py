"""The Prefect flow over a miniature DVC project: every stage a task, results as artifacts, processes that end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from distar import paths
from distar.__main__ import STAGES
from distar.release.releases import move, release_ids
from distar.release.storage import open_store
from distar.worktree import DVC
from flows.commands import CommandError, stream
from flows.pipeline import CHAMPION, Reproduction, dependencies, foreseen, main, stages, started_ahead
from tests.miniature import REPOSITORY, git, git_init, record_of, with_pipeline


@pytest.fixture
def dvc_project(project: Path) -> Path:
    """Turn the miniature into a git and DVC project with the real dvc.yaml and code."""
    with_pipeline(project)
    return project


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def table(key: str) -> list[dict[str, str]]:
    """Return the newest table of a key."""
    artifact: Any = Artifact.get(key)  # a coroutine where there is an event loop, which pyright thinks of
    assert artifact is not None
    return json.loads(str(artifact.data))


def test_flow_runs_every_stage_and_leaves_artifacts(dvc_project: Path, harness: None) -> None:
    order = stages()
    assert sorted(order) == sorted(STAGES)
    assert order.index("train") > order.index("reference")
    assert order[-2:] == ["package", "publish"]
    assert main([]) == 0
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(limit=200, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
        (flow_run,) = client.read_flow_runs()
    assert {run.name for run in runs} >= set(STAGES)
    assert {record_of(stage)["flow_run"] for stage in STAGES} == {str(flow_run.id)}
    commit = git(dvc_project, "rev-parse", "--short=12", "HEAD").strip()
    assert {*flow_run.tags} == {"profile:mini", f"commit:{commit}"}
    assert [(row["stage"], row["done"]) for row in table("timings")] == [(stage, "ran") for stage in order]
    assert list(table("metrics")[0]) == ["figure", "generator", "initial", "reference"]
    assert Artifact.get("samples")
    release = json.loads(paths.RECEIPT.read_text())["release"]
    for key, told in {"report": paths.REPORT_PAGE.absolute().as_uri(), "release": f"Release `{release}`"}.items():
        artifact: Any = Artifact.get(key)
        assert artifact is not None
        assert told in str(artifact.data)
    status = [sys.executable, "-m", "dvc", "status", "-q"]
    assert subprocess.run(status, check=False).returncode == 0


def test_later_stages_run_alone_and_the_champion_stands_beside_them(reproduced: Path, harness: None) -> None:
    release = json.loads(paths.RECEIPT.read_text())["release"]
    move(open_store("file://published"), CHAMPION, release, expected=None)
    (reproduced / "params.yaml").write_text((reproduced / "params.yaml").read_text() + "# edited\n")
    assert main(["--from", "evaluate"]) == 0
    up_to_date = "nothing: up to date"
    assert [(row["stage"], row["done"]) for row in table("timings")] == [
        ("evaluate", up_to_date),
        ("package", up_to_date),
        ("publish", up_to_date),
    ]
    for row in table("metrics"):
        assert row["champion"] == row["generator"]
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
    assert any(tag.startswith("commit:") and tag.endswith("-dirty") for tag in newest.tags)
    assert newest.parameters == {"first": "evaluate", "only": None, "changes": {}}


def test_changed_parameters_run_beside_the_workspace_and_nothing_is_published(reproduced: Path, harness: None) -> None:
    before = json.loads(paths.METRICS.read_text())
    releases = release_ids(open_store("file://published"))
    assert main(["--from", "train", "--set", "train.reward_scale=0.5"]) == 0
    assert [(row["stage"], row["done"]) for row in table("timings")] == [
        ("train", "ran"),
        ("evaluate", "ran"),
        ("package", "ran"),
    ]
    shown = {row["figure"]: row for row in table("metrics")}
    mean = before["generator"]["rewards"]["preference"]["mean"]
    assert shown["preference"]["generator"] != f"{mean:.4f}"
    assert shown["preference"]["initial"] == f"{before['initial']['rewards']['preference']['mean']:.4f}"
    assert git(reproduced, "status", "--porcelain") == ""
    assert len(git(reproduced, "worktree", "list").splitlines()) == 1
    assert json.loads(paths.METRICS.read_text()) == before
    assert release_ids(open_store("file://published")) == releases


def test_dry_run_tells_what_would_run_and_why(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(foreseen(stages(), Path()).values()) == {"up to date"}
    assert main(["--dry-run", "--set", "prompts.train.max_prompts=2"]) == 0
    told = {
        words[1]: " ".join(words) for line in capsys.readouterr().out.splitlines() if len(words := line.split()) > 2
    }
    assert "runs, or is restored from DVC's cache: profiles/mini.yaml:" in told["prompts"]
    assert "up to date" in told["reference"]
    assert "runs if what it reads comes out different" in told["baseline"]
    assert "publish" not in told
    assert git(reproduced, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "trian"], "--only: there is no stage 'trian'; dvc.yaml has "),
        (["--from", "train", "--only", "train"], "got --from train and --only train, expected one of the two"),
        (["--set", "train.reward_scail=1"], "profiles/mini.yaml: train.reward_scail: there is no such parameter"),
        (["--set", "profile=maxi"], "profiles/maxi.yaml does not exist at commit"),
        (["--only", "publish", "--set", "seed=1"], "--set publishes nothing; run `python -m flows.retrain`"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(
    reproduced: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 1
    assert f"pipeline: ParameterError: {told}" in capsys.readouterr().err


def test_stream_hands_over_lines_and_names_the_failure() -> None:
    lines: list[str] = []
    stream([sys.executable, "-c", "print('one'); print('two')"], lines.append)
    assert lines == ["one", "two"]
    with pytest.raises(CommandError, match="status 3"):
        stream([sys.executable, "-c", "raise SystemExit(3)"], lines.append)


def test_stages_depend_on_one_another_as_dvc_says() -> None:
    graph = subprocess.run([*DVC, "dag", "--dot"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    edges = re.findall(r'^"(\w+)" -> "(\w+)";$', graph, re.MULTILINE)
    assert edges
    assert {(needed, stage) for stage, all_needed in dependencies(REPOSITORY).items() for needed in all_needed} == {
        *edges
    }


@pytest.fixture
def three_stages(tmp_path: Path) -> Path:
    """Make a DVC project of three stages, of which the second needs the file `ready`, and fails without `well`."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: echo one}\n"
        "  second: {cmd: echo two; test -e well, deps: [ready]}\n"
        "  third: {cmd: echo three}\n"
    )
    (tmp_path / "params.yaml").write_text("profile: none\n")
    return git_init(tmp_path, [*DVC, "init", "-q"])


def test_failed_stage_is_begun_again_and_those_before_it_are_not(three_stages: Path) -> None:
    (three_stages / "ready").touch()
    with closing(Reproduction(three_stages, ["first", "second", "third"])) as reproduction:
        assert "one" in [*reproduction.lines_of("first")]
        with pytest.raises(CommandError, match="failed to reproduce 'second'"):
            list(reproduction.lines_of("second"))
        (three_stages / "well").touch()
        second = [*reproduction.lines_of("second")]
        assert "two" in second
        assert not {"one", "three"} & {*second}
        assert "three" in [*reproduction.lines_of("third")]


def test_stage_that_cannot_begin_fails_and_not_the_one_before(three_stages: Path) -> None:
    with closing(Reproduction(three_stages, ["first", "second", "third"])) as reproduction:
        assert "one" in [*reproduction.lines_of("first")]
        with pytest.raises(CommandError, match="failed to reproduce 'second': dependency 'ready'"):
            list(reproduction.lines_of("second"))


def test_closed_reproduction_leaves_no_process(three_stages: Path) -> None:
    (three_stages / "dvc.yaml").write_text("stages:\n  first: {cmd: echo $$; sleep 60}\n")
    with closing(Reproduction(three_stages, ["first"])) as reproduction:
        pid = next(int(line) for line in reproduction.lines_of("first") if line.isdecimal())
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_dvc_that_was_started_ahead_begins_nothing_by_itself_and_is_gone_with_what_it_waits_for(
    three_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three_stages)
    (three_stages / "dvc.yaml").write_text("stages:\n  first: {cmd: touch begun}\n")

    def processes_there() -> int:
        return sum(process.info["cwd"] == str(three_stages) for process in psutil.process_iter(["cwd"]))

    with started_ahead(["first"]):
        time.sleep(3)  # time enough for it to begin, if it would
        assert processes_there() == 2  # this one too
    assert processes_there() == 1
    assert not (three_stages / "begun").exists()


def test_dvc_that_waits_holds_no_lock_and_runs_what_the_project_says_once_it_begins(
    three_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three_stages)
    (three_stages / "dvc.yaml").write_text("stages:\n  first: {cmd: echo as it was}\n")
    with closing(Reproduction(three_stages, ["first"])) as reproduction:
        time.sleep(3)  # it has read the project by then
        subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)
        (three_stages / "dvc.yaml").write_text("stages:\n  first: {cmd: echo as it is}\n")
        assert "as it is" in list(reproduction.lines_of("first"))


def test_run_from_the_command_line_sends_heartbeats_if_they_are_asked_for(
    three_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three_stages)
    found: list[int | None] = []
    monkeypatch.setattr(
        "flows.pipeline.pipeline", lambda *_: found.append(get_current_settings().flows.heartbeat_frequency)
    )
    assert main([]) == 0
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        assert main([]) == 0
    assert found == [None, 60]


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
