"""Stage `package`: put the trained generator into a folder that plain diffusers loads."""

from __future__ import annotations

import json
import os
import shutil

import torch
from ruamel.yaml import YAML

from distar import paths
from distar.lineage.record import recorded
from distar.params import load_params
from distar.prompts import load_prompts
from distar.release.package import Card, copy_into, write_card, write_manifest
from distar.loading import load_family


def run() -> None:
    """Write the release folder, whole or not at all."""
    params = load_params()
    package, generator = params.profile.package, params.profile.train.generator
    with recorded("package") as record:
        metrics = json.loads(paths.METRICS.read_text(encoding="utf-8"))
        partial = paths.RELEASE.with_name(f".{paths.RELEASE.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        load_family(params, torch.device("cpu")).save_pipeline(paths.GENERATOR_WEIGHTS, partial)
        copy_into(partial, paths.METRICS, paths.SAMPLE_GRID, paths.REPORT_PAGE, paths.PROMPTS_CARD)
        with (partial / "params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(params.model_dump(mode="json"), file)
        card = Card(
            name=package.name,
            licence=package.licence,
            notice=package.notice,
            profile=params.root.profile,
            timestep=generator.timestep,
            noise_scale=generator.noise_scale,
            example_prompt=load_prompts(paths.EVALUATION_PROMPTS)[0],
            metrics=metrics,
            compare_by=params.profile.evaluate.compare_by,
        )
        write_card(card, partial / "README.md")
        record["release"] = write_manifest(partial)
        shutil.rmtree(paths.RELEASE, ignore_errors=True)
        os.replace(partial, paths.RELEASE)
