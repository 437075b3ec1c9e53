"""What the two stages that measure systems share: loading all they measure with, and the name of their work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from distar import paths
from distar.diffusion.networks import narrow_frozen, narrow_norms
from distar.embeddings import Embeddings
from distar.evaluation.fid import FID
from distar.evaluation.measuring import Evaluation
from distar.evaluation.protocols import check_prompt_set
from distar.hashing import fingerprint, hashes_of_code
from distar.lineage.record import LOCK_PATH
from distar.loading import diversity_features, load_family, load_scorers
from distar.params import Params
from distar.prompts import load_labels, load_prompts


def load_evaluation(params: Params, accelerator: Accelerator) -> Evaluation:
    """Load what systems are measured on and with.

    Raises:
        PromptError: the evaluation prompts do not fit the protocol.
        ModelFileError: the files of the Fréchet distance are missing or others.
    """
    settings, device = params.profile.evaluate, accelerator.device
    labels = load_labels(paths.EVALUATION_PROMPTS)
    check_prompt_set(settings.protocol, labels)
    family, scorers = load_family(params, device), load_scorers(params, device)
    if settings.precision == "bf16":
        for module in (family.network, *(scorers.values() if settings.backend == "port" else ())):
            narrow_frozen(module, torch.bfloat16)
        for network in (family.network, family.autoencoder):
            narrow_norms(network)
    return Evaluation(
        params=settings,
        seed=params.seed,
        family=family,
        prompts=load_prompts(paths.EVALUATION_PROMPTS),
        encoded=Embeddings(paths.EVALUATION_EMBEDDINGS),
        labels=labels,
        scorers=scorers,
        features=diversity_features(params, scorers),
        fid=FID.load(paths.FID, device) if settings.fid else None,
        accelerator=accelerator,
    )


def evaluation_fingerprint(params: Params, device: torch.device, weights: Sequence[Path]) -> str:
    """Hash what the measured depends on: parameters, inputs, code, dependency lock and kind of device."""
    profile = params.profile.model_dump(mode="json")
    sections = ("runtime", "reference", "initial_generator", "embeddings", "rewards", "evaluate")
    relevant = {name: profile[name] for name in sections}
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    folders = (paths.REFERENCE.parent, paths.EMBEDDINGS, paths.REWARDS, paths.FID)
    inputs = [paths.EVALUATION_PROMPTS, *folders, LOCK_PATH, *weights]
    generator = profile["train"]["generator"]
    return fingerprint(
        [params.seed, relevant, generator, kind, hashes_of_code()], [path for path in inputs if path.exists()]
    )
