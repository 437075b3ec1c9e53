"""Stage `train`: align the one-step generator with Diff-Instruct*."""

from __future__ import annotations

import ctypes
import hashlib
import json
import signal
import sys

import torch

from distar import paths
from distar.atomic import written_whole
from distar.diffusion.prompt import PromptEmbedding
from distar.hashing import sha256_of
from distar.lineage.record import LOCK_PATH, recorded
from distar.loading import diversity_features, load_family, load_initial_generator, load_rewards
from distar.params import Params, load_params
from distar.prompts import load_prompts
from distar.runtime import prepare_torch
from distar.training.checkpoint import WorkDirectory
from distar.training.loop import PromptData, Training, write_rows

_ENCODING_BATCH = 256


def run() -> None:
    """Train from the newest checkpoint of these parameters and inputs, if there is one; write the averaged weights."""
    _end_with_parent()
    params = load_params()
    with recorded("train") as record:
        accelerator = prepare_torch(params.profile.runtime, params.profile.train.precision)
        device = accelerator.device
        family = load_family(params, device)
        rewards = load_rewards(params, device)
        prompts = load_prompts(paths.TRAIN_PROMPTS)
        batches = [prompts[i : i + _ENCODING_BATCH] for i in range(0, len(prompts), _ENCODING_BATCH)]
        embedding = PromptEmbedding.cat([family.encode_prompts(batch).to("cpu") for batch in batches])
        training = Training(
            params.profile.train,
            params.seed,
            family,
            load_initial_generator(params, family),
            PromptData(prompts, embedding),
            rewards,
            diversity_features(params, rewards),
            accelerator,
        )
        fingerprint = run_fingerprint(params)
        with WorkDirectory(paths.work_root("train") / fingerprint[:16], fingerprint) as work_dir:
            trained = training.run(work_dir)
        if accelerator.is_main_process:
            with written_whole(paths.GENERATOR) as folder:
                family.save_generator(trained.generator, folder / paths.GENERATOR_WEIGHTS.name)
                write_rows(trained.updates, folder / paths.UPDATES_LOG.name)
                write_rows(trained.probes, folder / paths.PROBES_LOG.name)
        record["device"] = str(device)
        record["torch_threads"] = torch.get_num_threads()


def run_fingerprint(params: Params) -> str:
    """Hash what the weights depend on: parameters, inputs and the dependency lock."""
    profile = params.profile.model_dump(mode="json")
    relevant = {name: profile[name] for name in ("runtime", "reference", "initial_generator", "rewards", "train")}
    inputs = {
        str(path): sha256_of(path)
        for folder in (paths.TRAIN_PROMPTS, paths.REFERENCE.parent, paths.REWARDS, LOCK_PATH)
        for path in ([folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()))
    }
    text = json.dumps({"seed": params.seed, "params": relevant, "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _end_with_parent() -> None:
    """Ask Linux to end this process with the one that started it: a killed `dvc` must not leave a trainer behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)
