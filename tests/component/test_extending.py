"""The tutorial's reward and family, added to a copy of the project as it says, go through the chain."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtSigmaPipeline

from distar import paths
from distar.__main__ import STAGES
from tests.miniature import edit, pin_sources
from tests.references import REPOSITORY, load_plain, save_pixart

TUTORIAL = (REPOSITORY / "docs" / "extending.md").read_text()
PROFILE = Path("profiles/mini.yaml")


@pytest.fixture
def extended(project: Path) -> Path:
    """Copy the code into the project and carry out what the tutorial says."""
    shutil.copytree(REPOSITORY / "distar", project / "distar", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in re.findall(r"`(distar/[\w/]+\.py)`:\n\n```python\n(.*?)```", TUTORIAL, re.DOTALL):
        assert not (project / path).exists()
        (project / path).write_text(code)
    sections = re.split(r"`(distar/[\w/]+/params\.py)`:\n", TUTORIAL)
    for path, text in zip(sections[1::2], sections[2::2], strict=True):
        for change in re.findall(r"```diff\n(.*?)```", text, re.DOTALL):
            apply(project / path, change)
    return project


def apply(path: Path, change: str) -> None:
    lines = change.splitlines()
    before = "\n".join(line[1:] for line in lines if line[0] in " -")
    after = "\n".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def run_stages(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    for stage in STAGES:
        command = [sys.executable, "-m", "distar", stage]
        result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_a_reward_is_one_file_and_its_parameters(extended: Path) -> None:
    edit(PROFILE, "rewards", "contrast", value={"kind": "contrast"})
    edit(PROFILE, "train", "rewards", value={"preference": 1.0, "contrast": 0.05})
    edit(PROFILE, "evaluate", "rewards", value=["preference", "contrast"])
    run_stages(extended)
    metrics = json.loads(paths.METRICS.read_text())
    assert metrics["generator"]["rewards"]["contrast"]["mean"] > 0


def test_a_family_like_another_is_its_parameters(extended: Path) -> None:
    torch.manual_seed(0)
    folder = extended / "models" / "sigma"
    save_pixart(folder, PixArtSigmaPipeline)
    edit(PROFILE, "reference", value={"family": "pixart_sigma", "source": "file://models/sigma", "variant": None})
    edit(PROFILE, "initial_generator", "source", value="reference")
    pin_sources(extended)
    run_stages(extended)
    card = json.loads(paths.EMBEDDINGS_CARD.read_text())
    assert card["train"]["tokenizer"]["max_tokens"] == 300
    pipeline: Any = load_plain(paths.RELEASE)
    assert type(pipeline).__name__ == "PixArtSigmaPipeline"
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"clean_caption": False, "use_resolution_binning": False, "output_type": "pt"}
    image = pipeline("a red star", latents=noise, timesteps=[625], guidance_scale=0, **options).images[0]
    assert image.shape == (3, 16, 16)
