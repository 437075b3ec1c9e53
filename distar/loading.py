"""Load what earlier stages fetched: the reference family, the generators and the rewards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from distar import paths
from distar.diffusion.families.family import Family, TextEncoder
from distar.diffusion.generator import OneStepGenerator
from distar.embeddings import read_null
from distar.errors import ParameterError
from distar.params import Params
from distar.rewards.cosine import CosineReward
from distar.rewards.official import build_official
from distar.rewards.reward import Reward

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_family(params: Params, device: torch.device) -> Family:
    """Load the reference's networks."""
    return _placed(params.profile.reference.build(paths.REFERENCE, read_null(paths.NULL_EMBEDDING)), device)


def load_text_encoder(params: Params, device: torch.device) -> TextEncoder:
    """Load the reference's text encoders."""
    return _placed(params.profile.reference.build_text_encoder(paths.REFERENCE), device)


def load_initial_generator(params: Params, family: Family) -> OneStepGenerator:
    """Load the generator that training starts from."""
    return load_generator(params, family, initial_weights(params))


def initial_weights(params: Params) -> Path | None:
    """Return where the initial generator's weights are; None if they are the reference's."""
    return None if params.profile.initial_generator.source == "reference" else paths.INITIAL_GENERATOR


def load_generator(params: Params, family: Family, weights_dir: Path | None) -> OneStepGenerator:
    """Load a one-step generator's weights, or start one from the reference."""
    generator = params.profile.train.generator
    return _placed(family.generator(generator.timestep, generator.noise_scale, weights_dir), family.device)


def load_rewards(params: Params, device: torch.device, names: Iterable[str]) -> dict[str, Reward]:
    """Load some of the profile's rewards."""
    return {
        name: _placed(reward.build(paths.REWARDS / name), device)
        for name, reward in params.profile.rewards.items()
        if name in names
    }


def load_scorers(params: Params, device: torch.device) -> dict[str, Reward]:
    """Load every reward of the profile to score with: the official package's code where asked for and there is one."""
    if params.profile.evaluate.backend == "port":
        return load_rewards(params, device, params.profile.rewards)
    return {
        name: _placed(build_official(reward, paths.REWARDS / name), device)
        for name, reward in params.profile.rewards.items()
    }


def diversity_features(params: Params, rewards: dict[str, Reward]) -> CosineReward:
    """Return the reward whose picture features measure diversity.

    Raises:
        ParameterError: it is not a CLIP model.
    """
    name = params.profile.evaluate.diversity.features
    reward = rewards[name]
    if not isinstance(reward, CosineReward):
        raise ParameterError(
            f"evaluate.diversity.features: got {name!r}, a {type(reward).__name__}, which has no picture features; "
            "name one of kind clip_score, pickscore or hpsv2"
        )
    return reward


def _placed(module: ModuleT, device: torch.device) -> ModuleT:
    """Move a module to a device, with its weights in memory of their own.

    On a CPU they may lie in the mapped file, aligned as it happens, or not if there are several processes: the last
    bits of products depend on that.
    """
    if device.type == "cpu":
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
    return module.to(device)
