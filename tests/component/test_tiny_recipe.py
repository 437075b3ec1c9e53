"""The recipe of the tiny models: carried out whole with a budget of two steps each, and resumed to the bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from distar.errors import ParameterError, WorkDirectoryError
from distar.fetching import fetch, read_pins
from distar.locking import take_lock
from distar.model_files import ModelFiles
from distar.params import lock_path
from distar.rewards.params import Attributes, PickScore
from distar.tiny.build import MODELS_DIR, STEPS, WORK_DIR, build
from distar.tiny.fitting import FitParams, fit
from tests.miniature import REPOSITORY


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with the shipped recipe at two steps a model and one picture a subject."""
    yaml = YAML()
    recipe = yaml.load(REPOSITORY / MODELS_DIR / "recipe.yaml")
    recipe["pictures_per_subject"] = 1
    for part in ("autoencoder", "denoiser", "preference", "matching", "classifier"):
        recipe[part]["fit"] |= {"num_steps": 2, "batch_size": 8}
    recipe["preference"]["pretraining"] |= {"num_steps": 2, "batch_size": 8}
    initial = recipe["initial_generator"]
    initial |= {"num_steps": 1, "batch_size": 2, "micro_batch_size": 2}
    initial |= {"frozen_micro_batch_size": 1, "reward_micro_batch_size": 1}
    initial["assistant"]["warmup_steps"] = 1
    initial["monitors"] |= {
        "num_probe_prompts": 2,
        "num_probe_reference_steps": 2,
        "max_latent_rms_ratio": 1e6,  # networks that have seen two batches have no sane range
        "max_reward_excess": 1e6,
    }
    (tmp_path / MODELS_DIR).mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    yaml.dump(recipe, tmp_path / MODELS_DIR / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipe_makes_every_model_and_pins_it(kitchen: Path) -> None:
    build()
    pins = read_pins(lock_path("tiny"))
    assert set(pins) == set(read_pins(REPOSITORY / lock_path("tiny")))
    for source, files in pins.items():
        assert set(files) == set(read_pins(REPOSITORY / lock_path("tiny"))[source])
        fetch(ModelFiles(source), pins, kitchen / "fetched" / Path(source).name)
    prompts = (REPOSITORY / MODELS_DIR / "prompts" / "train.txt").read_text()
    assert (kitchen / MODELS_DIR / "prompts" / "train.txt").read_text() == prompts
    image, caption = torch.rand(1, 3, 64, 64), ["a red star on a white background"]
    PickScore(kind="pickscore", source="").build(kitchen / "fetched" / "preference")(image, caption)
    Attributes(kind="attributes", source="").build(kitchen / "fetched" / "judge")(image, caption)

    before = lock_path("tiny").read_bytes()
    shutil.rmtree(kitchen / WORK_DIR)
    build()  # afresh, it makes the same files
    assert lock_path("tiny").read_bytes() == before


def test_unknown_step_is_named() -> None:
    with pytest.raises(ParameterError, match=f"got 'unet'; the steps are {', '.join(STEPS)}"):
        build("unet")


def test_second_build_of_a_step_is_refused(kitchen: Path) -> None:
    with take_lock(WORK_DIR / "prompts.lock"), pytest.raises(WorkDirectoryError, match=f"process {os.getpid()};"):
        build("prompts")
    assert not (kitchen / MODELS_DIR / "prompts").exists()


def test_interrupted_fit_resumes_to_the_bit(tmp_path: Path) -> None:
    params = FitParams(num_steps=450, batch_size=4, learning_rate=1e-2, ema_decay=0.9)

    def run(folder: Path, stop_at: int | None) -> nn.Linear:
        torch.manual_seed(0)

        def loss_at(model: nn.Linear, step: int) -> Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(1, keepdim=True)).square().mean()

        folder.mkdir(exist_ok=True)
        return fit("line", nn.Linear(3, 1), loss_at, params, folder)

    undisturbed = run(tmp_path / "undisturbed", stop_at=None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "disturbed", stop_at=333)
    resumed = run(tmp_path / "disturbed", stop_at=100)  # step 100 was done before
    for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
