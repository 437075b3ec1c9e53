"""Stage `baseline`: measure what the generator will be compared with; the same for every experiment on it."""

from __future__ import annotations

from distar import paths
from distar.atomic import written_whole
from distar.evaluating import evaluation_fingerprint, load_evaluation
from distar.evaluation.cost import DrawingCost
from distar.evaluation.measuring import measure, summarise
from distar.evaluation.parts import work_directory
from distar.evaluation.sampling import many_steps, one_step
from distar.lineage.device import describe_device
from distar.lineage.record import recorded
from distar.loading import load_initial_generator
from distar.params import load_params
from distar.runtime import prepare_torch


def run() -> None:
    """Draw and score with the reference in many steps and with the initial generator in one; goes on where killed."""
    params = load_params()
    sampling = params.profile.evaluate.reference
    with recorded("baseline") as record:
        accelerator = prepare_torch(params.profile.runtime, params.profile.evaluate.precision)
        evaluation = load_evaluation(params, accelerator)
        family = evaluation.family
        systems = {
            "initial": one_step(load_initial_generator(params, family)),
            "reference": many_steps(family.reference(), sampling.num_steps, sampling.guidance_scale),
        }
        costs = {name: DrawingCost(accelerator.device) for name in systems}
        fingerprint = evaluation_fingerprint(params, accelerator.device, [])
        with work_directory(fingerprint, accelerator) as work_dir:
            parts = {name: measure(name, draw, evaluation, work_dir, costs[name]) for name, draw in systems.items()}
            if accelerator.is_main_process:
                with written_whole(paths.BASELINE) as folder:
                    for name in systems:
                        summarise(parts[name], evaluation).write(folder / name)
        record |= {"device": describe_device(accelerator.device), "seeds": {"seed": params.seed}}
        record["drawing"] = {name: cost.figures() for name, cost in costs.items()}
    accelerator.end_training()
