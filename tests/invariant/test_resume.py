"""Killed and resumed equals undisturbed, to the last bit; what goes wrong stops the run and keeps what was good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from distar import paths
from distar.__main__ import main
from distar.errors import TrainingError
from distar.params import load_params
from distar.stages import train
from distar.training.checkpoint import WorkDirectory
from tests.miniature import REPOSITORY, edit

PROFILE = Path("profiles/mini.yaml")


@pytest.fixture
def prepared(project: Path) -> Path:
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    return project


def weights() -> bytes:
    return (paths.GENERATOR_WEIGHTS / "diffusion_pytorch_model.safetensors").read_bytes()


def logs() -> tuple[str, str]:
    return paths.UPDATES_LOG.read_text(), paths.PROBES_LOG.read_text()


def checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob("*/iteration-*.pt"))


def test_killed_and_resumed_equals_undisturbed(prepared: Path, tmp_path: Path) -> None:
    edit(PROFILE, "train", "num_steps", value=12)
    environment = {**os.environ, "DISTAR_WORK_DIR": str(tmp_path / "undisturbed")}
    command = [sys.executable, "-m", "distar", "train"]
    subprocess.run(command, check=True, env=environment)
    undisturbed = weights(), logs()

    work = tmp_path / "disturbed"
    environment = {**os.environ, "DISTAR_WORK_DIR": str(work)}
    process = subprocess.Popen(command, env=environment)
    while len(checkpoints(work)) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(checkpoints(work)[-1].stem.removeprefix("iteration-"))
    assert reached < 14

    resumed = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert f"train: {reached}/" not in resumed.stderr  # it went on, it did not start over
    assert (weights(), logs()) == undisturbed


def test_other_parameters_do_not_resume_this_run(prepared: Path) -> None:
    before = train.run_fingerprint(load_params())
    edit(PROFILE, "train", "reward_scale", value=0.5)
    assert train.run_fingerprint(load_params()) != before


def test_other_code_does_not_resume_this_run(prepared: Path) -> None:
    """A change of what trains begins afresh; a change elsewhere loses no hours of training."""
    shutil.copytree(REPOSITORY / "distar", prepared / "distar", ignore=shutil.ignore_patterns("__pycache__"))

    def fingerprint() -> str:
        code = (
            "from distar.params import load_params; from distar.stages.train import run_fingerprint as f; "
            "print(f(load_params()))"
        )
        environment = {**os.environ, "PYTHONPATH": str(prepared)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout

    before = fingerprint()
    with (prepared / "distar" / "evaluation" / "report.py").open("a") as file:
        file.write("# changed\n")
    assert fingerprint() == before
    with (prepared / "distar" / "divergences" / "pseudo_huber.py").open("a") as file:
        file.write("# changed\n")
    assert fingerprint() != before


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with WorkDirectory(tmp_path / "work", "a" * 64) as mine:
        mine.save(3, {})
    with WorkDirectory(tmp_path / "work", "b" * 64) as other, pytest.raises(Exception, match="belongs to a run"):
        other.load("cpu")


def test_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    with WorkDirectory(tmp_path / "work", "a" * 64) as work:
        path = work.save(3, {"x": torch.zeros(1000)})
        os.truncate(path, 100)
        with pytest.raises(Exception, match=r"iteration-00000003\.pt cannot be read"):
            work.load("cpu")


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(prepared: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTAR_WORK_DIR", str(tmp_path / "work"))
    edit(PROFILE, "train", "num_steps", value=400)
    edit(PROFILE, "train", "assistant", "optimizer", "learning_rate", value=3.0)
    with pytest.raises(TrainingError, match="not finite at iteration"):
        train.run()
    assert not paths.GENERATOR.exists()
    kept = checkpoints(tmp_path / "work")
    assert kept
    for path in kept:
        for weights in torch.load(path, weights_only=True)["weights"].values():
            assert all(tensor.isfinite().all() for tensor in weights.values())


def test_updates_that_round_away_stop_the_run(prepared: Path) -> None:
    edit(PROFILE, "train", "generator", "optimizer", "learning_rate", value=1e-12)
    with pytest.raises(
        TrainingError, match=r"updates do nothing at iteration 3: of the generator's parameters [0-9.]+%"
    ):
        train.run()


def test_runaway_is_caught(prepared: Path) -> None:
    """An unbounded reward with too large a scale outgrows the divergence, whose gradient is bounded."""
    edit(PROFILE, "train", "num_steps", value=400)
    edit(PROFILE, "train", "checkpoint_every", value=400)
    edit(PROFILE, "train", "monitors", "probe_every", value=10)
    edit(PROFILE, "train", "reward_scale", value=1e4)
    edit(PROFILE, "train", "generator", "optimizer", "learning_rate", value=3e-2)
    edit(PROFILE, "train", "monitors", "max_latent_rms_ratio", value=2.0)
    with pytest.raises(TrainingError, match="latents ran away at iteration"):
        train.run()
