"""The whole chain on a miniature project: every stage for real, with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from distar import paths
from distar.__main__ import STAGES, main


def test_every_stage_runs_and_the_release_loads_in_plain_diffusers(project: Path) -> None:
    for stage in STAGES:
        assert main([stage]) == 0, stage
    metrics = json.loads(paths.METRICS.read_text())
    assert set(metrics) == {"generator", "initial", "reference", "win_rate", "win_rates", "cut_prompts"}
    assert set(metrics["generator"]["rewards"]) == {"preference", "matching"}
    assert {"judge_accuracy", "diversity"} < set(metrics["generator"])
    assert set(metrics["win_rate"]) == {"vs_initial", "vs_reference"}
    for opponent, rates in metrics["win_rates"].items():
        assert set(rates) == {"preference", "matching"}
        assert rates["preference"] == metrics["win_rate"][opponent]
    page = paths.REPORT_PAGE.read_text()
    assert page.count("<img") == 2 * 3
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*', page) == []  # self-contained
    receipt = json.loads(paths.RECEIPT.read_text())
    assert json.loads((project / "published" / "aliases" / "latest.json").read_text())["release"] == receipt["release"]

    pipeline: Any = DiffusionPipeline.from_pretrained(paths.RELEASE)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = noise * (1 - pipeline.scheduler.alphas_cumprod[625]).sqrt()
    image = pipeline("a red star", latents=scaled, timesteps=[625], guidance_scale=0, output_type="pt").images[0]
    assert image.shape == (3, 16, 16)
