"""What the environment says of other processes counts only where a launcher of this very process says it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distar import paths
from distar.__main__ import main
from distar.launch import ON_MANY_PROCESSES

STAGES = ("prompts", "reference", "rewards", "embeddings", "baseline", "train", "evaluate", "package", "publish")
PARTIAL = [
    {"RANK": "3"},
    {"WORLD_SIZE": "4"},
    {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"},
    {"RANK": "three", "WORLD_SIZE": ""},
    {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_RANK": "1"},
]
COMPLETE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
    "TORCHELASTIC_RUN_ID": "none",
}


def records(stage: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in (Path("runs") / stage).glob("*.json")]


@pytest.mark.slow
@pytest.mark.parametrize("environment", PARTIAL)
def test_every_stage_records_what_it_did_alone(
    project: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for stage in STAGES:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main([stage]) == 0, capfd.readouterr().err
        (record,) = records(stage)
        assert record["processes"] == 1
        assert record["cost_seconds"] == record["seconds"]
        told = capfd.readouterr().err
        assert ("without the rest that a launcher sets: ignored" in told) == (stage in ON_MANY_PROCESSES)
    assert paths.RECEIPT.exists()


@pytest.mark.parametrize("environment", [*PARTIAL, COMPLETE])
def test_stages_of_one_process_never_look_at_it(
    project: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for stage in ("prompts", "reference"):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main([stage]) == 0
        (record,) = records(stage)
        assert (record["processes"], record["cost_seconds"]) == (1, record["seconds"])
    assert "ignored" not in capfd.readouterr().err


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, sys.executable, "-m", "distar", "train"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_training_waits_for_no_processes_of_another_launch(project: Path) -> None:
    """A shell in a launched process hands all of its variables on."""
    ran = run(COMPLETE, "/bin/sh", "-c", '"$@"; exit $?', "sh")
    assert ran.returncode == 1
    assert "this is process 3 of 4, but these variables are those of the process that started it" in ran.stderr
    assert "run `env -u RANK -u WORLD_SIZE" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"TORCHELASTIC_RUN_ID": ""}, "neither `accelerate launch` nor `torchrun` started it"),
        ({"RANK": "4"}, "there is no such process"),
        ({"RANK": "x"}, "there is no such process"),
        ({"LOCAL_RANK": "-1"}, "there is no such process"),
    ],
)
def test_launch_that_is_none_is_refused(project: Path, changed: dict[str, str], told: str) -> None:
    ran = run(COMPLETE | changed)
    assert ran.returncode == 1
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
