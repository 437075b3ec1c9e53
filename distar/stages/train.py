"""Stage `train`: align the one-step generator with Diff-Instruct*."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator

from distar import paths
from distar.atomic import written_whole
from distar.diffusion.adapters import merge_adapters
from distar.embeddings import Embeddings
from distar.hashing import fingerprint, hashes_of_code
from distar.lineage.device import describe_device
from distar.lineage.record import LOCK_PATH, recorded
from distar.loading import diversity_features, initial_weights, load_family, load_initial_generator, load_rewards
from distar.params import Params, load_params
from distar.prompts import load_prompts
from distar.runtime import prepare_torch
from distar.training.checkpoint import WorkDirectory
from distar.training.draws import PromptData
from distar.training.loop import Trained, Training, write_rows

CODE = (
    "diffusion",
    "divergences",
    "embeddings.py",
    "evaluation/metrics.py",
    "hashing.py",
    "loading.py",
    "prompts/__init__.py",
    "rewards",
    "runtime.py",
    "seeding.py",
    "stages/train.py",
    "training",
)
"""What trains, as dvc.yaml names it: a checkpoint of other code is not gone on from."""


def run() -> None:
    """Train from the newest checkpoint of these parameters and inputs, if there is one; write the averaged weights."""
    params = load_params()
    with recorded("train") as record:
        accelerator = prepare_torch(params.profile.runtime, params.profile.train.precision)
        if params.profile.train.num_steps == 0:
            trained = Trained({}, updates=[], probes=[], reference_figures={})
        else:
            trained = _train(params, accelerator)
        if accelerator.is_main_process:
            with written_whole(paths.GENERATOR) as folder:
                _save_generator(params, trained, folder / paths.GENERATOR_WEIGHTS.name)
                write_rows(trained.updates, folder / paths.UPDATES_LOG.name)
                write_rows(trained.probes, folder / paths.PROBES_LOG.name)
                text = json.dumps(trained.reference_figures, indent=2) + "\n"
                (folder / paths.PROBE_REFERENCE.name).write_text(text, encoding="utf-8")
        record |= {"device": describe_device(accelerator.device), "seeds": {"seed": params.seed}}
    accelerator.end_training()


def _train(params: Params, accelerator: Accelerator) -> Trained:
    settings, first = params.profile.train, accelerator.is_main_process
    rewards = load_rewards(params, accelerator.device, settings.rewards)
    if first:  # it alone looks at pictures between updates; what it needs just then stands on the CPU until then
        watched = {*settings.held_out_rewards, params.profile.evaluate.diversity.features}
        rewards |= load_rewards(params, torch.device("cpu"), watched - rewards.keys())
    family = load_family(params, accelerator.device)
    generator, assistant = settings.generator, settings.assistant
    training = Training(
        settings,
        params.seed,
        family,
        family.generator(
            generator.timestep, generator.noise_scale, initial_weights(params), generator.lora, params.seed
        ),
        family.assistant(assistant.lora, params.seed),
        PromptData(load_prompts(paths.TRAIN_PROMPTS), Embeddings(paths.TRAIN_EMBEDDINGS)),
        rewards,
        diversity_features(params, rewards) if first else None,
        accelerator,
    )
    name = run_fingerprint(params)
    with WorkDirectory(paths.work_root("train") / name[:16], name) if first else nullcontext() as work_dir:
        return training.run(work_dir)


def _save_generator(params: Params, trained: Trained, folder: Path) -> None:
    """Write the trained network whole, adapters merged into the initial weights as they were read: in fp32."""
    family = load_family(params, torch.device("cpu"))
    generator, lora = load_initial_generator(params, family), params.profile.train.generator.lora
    if lora is None:
        generator.load_state_dict(generator.state_dict() | trained.state)
    else:
        merge_adapters(generator, trained.state, lora)
    family.save_generator(generator, folder)


def run_fingerprint(params: Params) -> str:
    """Hash what the weights depend on: parameters, inputs, the code that trains and the dependency lock."""
    profile = params.profile.model_dump(mode="json")
    sections = ("runtime", "reference", "initial_generator", "embeddings", "rewards", "train")
    inputs = (paths.TRAIN_PROMPTS, paths.EMBEDDINGS, paths.REFERENCE.parent, paths.REWARDS, LOCK_PATH)
    relevant = {name: profile[name] for name in sections}
    return fingerprint([params.seed, relevant, hashes_of_code(*CODE)], inputs)
