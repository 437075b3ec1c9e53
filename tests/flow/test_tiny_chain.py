"""The shipped profile, for real and from what git holds: the whole chain with a shortened budget, twice."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from distar.__main__ import STAGES, main
from tests.miniature import REPOSITORY, edit, git_init, record_of, run_dvc


def fresh_copy(folder: Path) -> Path:
    """Copy what git tracks, as a clone would, and shorten what takes long."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    profile = folder / "profiles" / "tiny.yaml"
    for keys, value in {
        ("prompts", "evaluation", "max_prompts"): 24,
        ("train", "num_steps"): 4,
        ("train", "batch_size"): 8,
        ("train", "assistant", "warmup_steps"): 1,
        ("train", "monitors", "num_probe_prompts"): 4,
        ("evaluate", "reference", "num_steps"): 4,
        ("evaluate", "diversity", "num_prompts"): 4,
    }.items():
        edit(profile, *keys, value=value)
    git_init(folder)
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    first, second = (fresh_copy(tmp_path_factory.mktemp(name)) for name in ("first", "second"))
    for folder in (first, second):
        run_dvc(folder, "repro")
    return first, second


def test_two_copies_give_the_same_lock(copies: tuple[Path, Path]) -> None:
    first, second = copies
    assert (first / "dvc.lock").read_bytes() == (second / "dvc.lock").read_bytes()


def test_chain_leaves_what_it_promises(copies: tuple[Path, Path]) -> None:
    folder, _ = copies
    metrics = json.loads((folder / "metrics.json").read_text())
    for system in ("generator", "initial", "reference"):
        assert metrics[system]["rewards"]["preference"]["sem"] > 0
        assert 0 <= metrics[system]["judge_accuracy"] <= 1
        assert metrics[system]["diversity"] > 0
    release = json.loads((folder / "outputs" / "receipt.json").read_text())["release"]
    assert json.loads((folder / "published" / "aliases" / "latest.json").read_text())["release"] == release
    assert "simulated" in (folder / "reports" / "index.html").read_text()
    assert "simulated" in (folder / "outputs" / "release" / "README.md").read_text()
    for stage in STAGES:
        assert record_of(stage, folder)["seconds"] >= 0


def test_sample_draws_beside_the_reference(copies: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = copies
    monkeypatch.chdir(folder)
    arguments = ["sample", "a red star on a white background", "--num-images", "2", "--compare", "--seed", "3"]
    assert main([*arguments, "--out", "one.png"]) == 0
    assert main([*arguments, "--out", "two.png"]) == 0
    with Image.open("one.png") as image:
        assert image.size == (2 * 256, 2 * 256)
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
