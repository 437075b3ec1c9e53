"""However an update's batch is cut, among micro-batches or processes, whole or in shards, the training is the same."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distar import paths
from distar.__main__ import main
from tests.miniature import REPOSITORY, edit

PROFILE = Path("profiles/mini.yaml")
TRAIN = [sys.executable, "-m", "distar", "train"]
ON_TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *TRAIN[1:]]
SHARDED = {"ACCELERATE_USE_FSDP": "true"}  # as `accelerate launch` says it with an fsdp_config
LAUNCHES = REPOSITORY / "profiles" / "launch"


@pytest.fixture
def prepared(project: Path) -> Path:
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    edit(PROFILE, "train", "batch_size", value=8)
    edit(PROFILE, "train", "micro_batch_size", value=8)
    for player in ("generator", "assistant"):  # where gradients are rounding alone, Adam moves by the learning rate
        edit(PROFILE, "train", player, "optimizer", "eps", value=1e-4)
    return project


def start(work: Path, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    environment |= {"CUDA_VISIBLE_DEVICES": "", "DISTAR_WORK_DIR": str(work)}
    with words_of(work).open("ab") as words:
        return subprocess.Popen(command, env={**os.environ, **environment}, stderr=words)


def words_of(work: Path) -> Path:
    return work.with_suffix(".stderr")


def trained(work: Path, command: list[str], **environment: str) -> dict[str, Tensor]:
    assert start(work, command, **environment).wait() == 0, words_of(work).read_text()
    return load_file(paths.GENERATOR_WEIGHTS / "diffusion_pytorch_model.safetensors")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    initial = load_file(Path("models/initial_generator/diffusion_pytorch_model.safetensors"))
    assert max((expected[name] - initial[name]).abs().max() for name in expected) > 1e-4, "nothing was trained"
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_one_by_eight_is_two_by_four_is_two_processes_by_four(prepared: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", TRAIN)
    rows = read_rows()
    edit(PROFILE, "train", "micro_batch_size", value=4)
    assert_same(trained(tmp_path / "halves", TRAIN), whole)
    assert_same(trained(tmp_path / "ddp", TRAIN, DISTAR_LAUNCH=str(LAUNCHES / "tiny.yaml")), whole)
    told = words_of(tmp_path / "ddp").read_text()
    assert len(re.findall(r"^train: (\d+)/\1, ", told, re.MULTILINE)) == 1, told  # not once for each process
    assert {json.loads(path.read_text())["processes"] for path in Path("runs/train").glob("*.json")} == {1, 2}
    assert read_rows() == pytest.approx(rows, rel=1e-3, abs=1e-4)
    in_shards = (LAUNCHES / "sdxl.yaml").read_text().replace("num_processes: 8", "num_processes: 2")
    Path("in_shards.yaml").write_text(in_shards)
    assert_same(trained(tmp_path / "fsdp", TRAIN, DISTAR_LAUNCH="in_shards.yaml"), whole)
    assert read_rows() == pytest.approx(rows, rel=1e-3, abs=1e-4)


def read_rows() -> list[float]:
    """Read every figure of the logs, which are of all processes' samples."""
    with paths.UPDATES_LOG.open() as updates, paths.PROBES_LOG.open() as probes:
        rows = [*csv.DictReader(updates), *csv.DictReader(probes)]
    return [float(value) for row in rows for value in row.values() if value not in {"", "nan"}]


def test_processes_on_cpus_share_the_threads(prepared: Path, tmp_path: Path) -> None:
    edit(PROFILE, "runtime", "num_threads", value=2)
    for work, command in (("one", TRAIN), ("two", ON_TWO)):
        trained(tmp_path / work, command)
    records = [json.loads(path.read_text()) for path in Path("runs/train").glob("*.json")]
    assert {(record["processes"], record["device"]["threads"]) for record in records} == {(1, 2), (2, 1)}


def test_checkpoint_is_gone_on_from_by_another_number_of_processes(prepared: Path, tmp_path: Path) -> None:
    edit(PROFILE, "train", "num_steps", value=12)
    edit(PROFILE, "train", "micro_batch_size", value=4)
    whole = trained(tmp_path / "undisturbed", TRAIN)
    work = tmp_path / "disturbed"
    reached = killed_after_a_checkpoint(start(work, ON_TWO, **SHARDED), work, 0)
    reached = killed_after_a_checkpoint(start(work, ON_TWO), work, reached)
    assert reached < 14
    assert_same(trained(work, TRAIN), whole)


def killed_after_a_checkpoint(process: subprocess.Popen[bytes], work: Path, before: int) -> int:
    """Kill a launch and its workers once it has gone further; return how far it got."""
    reached = before
    while reached <= before:
        assert process.poll() is None, words_of(work).read_text()
        time.sleep(0.02)
        found = sorted(work.glob("*/iteration-*.pt"))
        reached = int(found[-1].stem.removeprefix("iteration-")) if found else 0
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(workers)  # they end with the launcher: their work directory is free again
    found = sorted(work.glob("*/iteration-*.pt"))
    return int(found[-1].stem.removeprefix("iteration-"))


def test_batch_that_processes_cannot_share_is_refused(prepared: Path, tmp_path: Path) -> None:
    edit(PROFILE, "train", "batch_size", value=7)
    assert start(tmp_path / "work", ON_TWO).wait() != 0
    assert "train.batch_size is 7, which 2 processes cannot share evenly" in words_of(tmp_path / "work").read_text()


def test_adapters_are_not_cut_in_shards(prepared: Path, tmp_path: Path) -> None:
    edit(PROFILE, "train", "generator", "lora", value={"rank": 2, "alpha": 2, "target_modules": ["to_q"]})
    assert start(tmp_path / "work", ON_TWO, **SHARDED).wait() != 0
    assert "this launch shards them" in words_of(tmp_path / "work").read_text()


def test_launch_that_is_not_there_is_named(prepared: Path, tmp_path: Path) -> None:
    assert start(tmp_path / "work", TRAIN, DISTAR_LAUNCH="profiles/launch/none.yaml").wait() == 1
    assert "DISTAR_LAUNCH is profiles/launch/none.yaml, which is no file" in words_of(tmp_path / "work").read_text()
