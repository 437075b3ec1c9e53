"""What a command does not need, it does not wait for: what it imports, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.worktree import DVC
from tests.miniature import REPOSITORY, with_pipeline


def imported(*command: str) -> set[str]:
    """Run a command of the project and return the top of every module that it imports."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = (line for line in result.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_waits_for_no_library_that_computes() -> None:
    found = imported("-m", "distar", "--help")
    assert "argparse" in found
    assert not {"torch", "numpy", "pydantic", "pyarrow", "PIL", "rich", "dvc", "prefect", "boto3"} & found


@pytest.mark.parametrize("stage", ["prompts", "reference", "rewards"])
def test_fetching_waits_for_no_torch(stage: str, project: Path) -> None:
    found = imported("-m", "distar", stage)
    assert "pydantic" in found
    assert not {"torch", "diffusers", "transformers", "accelerate", "dvc", "prefect"} & found


def test_encoding_prompts_waits_for_transformers_alone(project: Path) -> None:
    assert main(["prompts"]) == 0
    assert main(["reference"]) == 0
    found = imported("-m", "distar", "embeddings")
    assert {"torch", "transformers", "pyarrow"} <= found
    assert (
        not {"diffusers", "pandas", "matplotlib", "open_clip", "hpsv2", "ImageReward", "scipy", "dvc", "prefect"}
        & found
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '0'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"GOMP_SPINCOUNT": "1234"}, "GOMP_SPINCOUNT = '1234'"),
    ],
)
def test_threads_wait_without_spinning_unless_asked_to(project: Path, asked: dict[str, str], expected: str) -> None:
    """What OpenMP itself says that it read."""
    assert main(["prompts"]) == 0
    assert main(["reference"]) == 0
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    result = subprocess.run(
        [sys.executable, "-m", "distar", "embeddings"],
        env={**inherited, "PYTHONPATH": str(REPOSITORY), "OMP_DISPLAY_ENV": "verbose", **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert expected in result.stderr


def test_garbage_is_looked_for_after_the_imports_and_not_among_them(project: Path) -> None:
    program = "import gc; from distar.__main__ import main; main(['prompts'])"
    command = [sys.executable, "-c", f"{program}; print(gc.isenabled(), gc.get_freeze_count())"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    enabled, frozen = result.stdout.split()[-2:]
    assert enabled == "True"
    assert int(frozen) > 50_000


def test_process_ends_with_the_status_and_does_what_was_registered(project: Path) -> None:
    program = "import atexit, sys; atexit.register(print, 'registered'); from distar.__main__ import run; run()"
    for command, status in (["prompts"], 0), (["reference", "--no-such"], 2), (["evaluate"], 1):
        result = subprocess.run(
            [sys.executable, "-c", program, *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == status, result.stderr
        assert result.stdout.endswith("registered\n")


def test_process_whose_output_is_closed_ends_with_its_status(project: Path) -> None:
    for stage, status in ("prompts", 0), ("evaluate", 1):
        command = f"exec {sys.executable} -m distar {stage} >&- 2>&-"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        assert subprocess.run(command, shell=True, env=environment, check=False).returncode == status  # noqa: S602


@pytest.mark.parametrize(("status", "then"), [(0, 1), (3, 3)])
def test_process_whose_output_has_no_space_left_says_so(status: int, then: int) -> None:
    program = f"from distar.processes import end_process; print('lost'); end_process({status})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (then, "standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [["release", "list", "--json"], ["audit", "prune", "--json"], ["audit", "prune"], ["release", "keygen", "key"]],
)
def test_command_whose_output_has_no_space_left_says_so(arguments: list[str], project: Path) -> None:
    (project / "published").mkdir()
    command = [sys.executable, "-m", "distar", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"distar {arguments[0]}: StorageError: standard output cannot be written: No space left on device"
    ]


def test_dvc_of_flows_is_dvc_with_its_status_whatever_revision_it_is_in(project: Path) -> None:
    with_pipeline(project)
    (project / "distar" / "dvc.py").unlink()
    for arguments, status in (["status", "--json"], 0), (["repro", "no-such-stage"], 255):
        ours, theirs = (
            subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
            for program in (DVC, (sys.executable, "-m", "dvc"))
        )
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
        assert ours.returncode == status
