"""Stage `baseline`: measure what the generator will be compared with; the same for every experiment on it."""

from __future__ import annotations

from distar import paths
from distar.atomic import written_whole
from distar.embeddings import Embeddings
from distar.evaluation.measuring import measure
from distar.evaluation.sampling import many_steps, one_step
from distar.lineage.record import recorded
from distar.loading import diversity_features, load_family, load_initial_generator, load_rewards
from distar.params import load_params
from distar.prompts import load_prompts
from distar.runtime import prepare_torch


def run() -> None:
    """Draw and score with the reference in many steps and with the initial generator in one."""
    params = load_params()
    settings = params.profile.evaluate
    with recorded("baseline") as record:
        accelerator = prepare_torch(params.profile.runtime)
        family = load_family(params, accelerator.device)
        rewards = load_rewards(params, accelerator.device)
        features = diversity_features(params, rewards)
        prompts, encoded = load_prompts(paths.EVALUATION_PROMPTS), Embeddings(paths.EVALUATION_EMBEDDINGS)
        sampling = settings.reference
        systems = {
            "initial": one_step(load_initial_generator(params, family)),
            "reference": many_steps(family.reference(), sampling.num_steps, sampling.guidance_scale),
        }
        with written_whole(paths.BASELINE) as folder:
            for name, draw in systems.items():
                measured = measure(name, draw, family, rewards, features, prompts, encoded, settings, params.seed)
                measured.write(folder / name)
        record["device"] = str(accelerator.device)
