"""The tiny initial generator: the reference distilled into one step by SIM, Diff-Instruct* without a reward."""

from __future__ import annotations

import hashlib

from accelerate import Accelerator

from distar.diffusion.families.params import SD15
from distar.rewards.params import CLIPScore, PickScore
from distar.tiny.recipe import Kitchen
from distar.training.checkpoint import WorkDirectory
from distar.training.draws import PromptData
from distar.training.loop import Training


def build_initial_generator(kitchen: Kitchen) -> None:
    """Distil the reference into one step by SIM: Diff-Instruct*'s own training without a reward."""
    params = kitchen.recipe.initial_generator
    reference, folder = SD15(family="sd15", source="file://reference", variant=None), kitchen.models_dir / "reference"
    text_encoder = reference.build_text_encoder(folder)
    family = reference.build(folder, text_encoder.encode_null())
    matching = CLIPScore(kind="clip_score", source="file://matching").build(kitchen.models_dir / "matching")
    preference = PickScore(kind="pickscore", source="file://preference").build(kitchen.models_dir / "preference")
    prompts = tuple((kitchen.models_dir / "prompts" / "train.txt").read_text(encoding="utf-8").splitlines())
    generator = family.generator(params.generator.timestep, params.generator.noise_scale, None)
    training = Training(
        params,
        kitchen.recipe.seed,
        family,
        generator,
        family.assistant(),
        PromptData(prompts, text_encoder.encode(prompts)),
        {"matching": matching, "preference": preference},
        matching,
        Accelerator(cpu=True),
    )
    fingerprint = hashlib.sha256(kitchen.recipe.model_dump_json().encode()).hexdigest()
    with WorkDirectory(kitchen.work_dir / "initial_generator", fingerprint) as work_dir:
        trained = training.run(work_dir)
    generator.load_state_dict(trained.state)
    family.save_generator(generator.half(), kitchen.models_dir / "initial_generator")
