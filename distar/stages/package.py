"""Stage `package`: put the trained generator into a folder that plain diffusers loads."""

from __future__ import annotations

import json

from ruamel.yaml import YAML

from distar import paths
from distar.atomic import written_whole
from distar.lineage.record import recorded
from distar.params import load_params
from distar.prompts import load_prompts
from distar.release.package import Card, copy_into, write_card, write_manifest


def run() -> None:
    """Write the release folder, whole or not at all."""
    params = load_params()
    package, generator = params.profile.package, params.profile.train.generator
    with recorded("package") as record:
        metrics = json.loads(paths.METRICS.read_text(encoding="utf-8"))
        card = Card(
            name=package.name,
            licence=package.licence,
            notice=package.notice,
            profile=params.root.profile,
            timestep=generator.timestep,
            noise_scale=generator.noise_scale,
            network=params.profile.reference.network_name,
            call_options=params.profile.reference.call_options,
            example_prompt=load_prompts(paths.EVALUATION_PROMPTS)[0],
            metrics=metrics,
            compare_by=params.profile.evaluate.compare_by,
        )
        contents = {"profile": params.root.profile, "seed": params.seed, **params.profile.model_dump(mode="json")}
        with written_whole(paths.RELEASE) as folder:
            params.profile.reference.write_pipeline(paths.REFERENCE, paths.GENERATOR_WEIGHTS, folder)
            copy_into(folder, paths.METRICS, paths.SAMPLE_GRID, paths.REPORT_PAGE, paths.PROMPTS_CARD)
            with (folder / "params.yaml").open("w", encoding="utf-8") as file:
                YAML().dump(contents, file)
            write_card(card, folder / "README.md")
            record["release"] = write_manifest(folder)
