"""What is measured: the tiny world's own networks, or random ones in the shape of Stable Diffusion 1.5."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from distar.diffusion.adapters import sharing_weights
from distar.diffusion.assistant import Assistant
from distar.diffusion.families.family import Family, TextEncoder
from distar.diffusion.families.sd15 import CLIPTextEncoder, StableDiffusion15
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.networks import checkpoint_decoder
from distar.params import Profile, RuntimeParams, load_params
from distar.rewards.clip import ClipReward
from distar.rewards.reward import Reward
from distar.training.optimizer import build_optimizer
from distar.training.params import OptimizerParams, TrainParams
from distar.training.step import Batch, Objective, Trainable

_TINY = Path("models/tiny")


@dataclass(frozen=True)
class Subject:
    """Three networks in training, what decodes and scores, and what encodes prompts; all on one device.

    Attributes:
        family: the reference, autoencoder and schedule.
        text_encoder: what turns prompts into embeddings.
        generator: the one-step generator with its optimizer.
        assistant: the assistant with its optimizer.
        reward: what is maximised.
        train: the settings of training, those of the profile `tiny`.
    """

    family: Family
    text_encoder: TextEncoder
    generator: Trainable[OneStepGenerator]
    assistant: Trainable[Assistant]
    reward: Reward
    train: TrainParams

    @property
    def objective(self) -> Objective:
        """The objective, with a reward that decodes first."""
        return self._decoding_with(self.family)

    @cached_property
    def lean_objective(self) -> Objective:
        """The same objective, but the decoder's activations are computed twice and not kept."""
        family = cast("Family", sharing_weights(self.family))
        checkpoint_decoder(family.autoencoder)
        return self._decoding_with(family)

    def _decoding_with(self, family: Family) -> Objective:
        def reward(x0: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            return self.reward(family.decode(x0), prompts)

        params = self.train
        return Objective(params.divergence.build(), reward, params.reward_scale, params.guidance_scale, params.guidance)

    def batch(self, size: int) -> Batch:
        """Draw what one update draws."""
        prompts = tuple(f"a red star on a white background, {i}" for i in range(size))
        rng, device = torch.Generator().manual_seed(size), self.family.device
        shape, times = (size, *self.family.latent_shape), self.train.timesteps
        return Batch(
            prompts,
            self.text_encoder.encode(prompts),
            torch.randn(shape, generator=rng).to(device),
            torch.randn(shape, generator=rng).to(device),
            torch.randint(times.minimum, times.maximum, (size,), generator=rng).to(device),
        )


def bench_runtime() -> RuntimeParams:
    """Return what torch is told before it is measured: the profile `tiny`'s, but on a GPU not to be deterministic.

    The gradient of resizing pictures has no deterministic implementation there.
    """
    runtime = load_params(profile="tiny").profile.runtime
    return runtime.model_copy(update={"deterministic": False}) if torch.cuda.is_available() else runtime


def make_subject(network: str, device: torch.device) -> Subject:
    """Load the networks of `tiny`, or draw those of `sd15-100m`."""
    profile = load_params(profile="tiny").profile
    torch.manual_seed(0)
    if network == "tiny":
        family, text_encoder, reward = _tiny(profile)
        weights: Path | None = _TINY / "initial_generator"
    else:
        family, text_encoder, reward = _random()
        weights = None
    family.to(device)
    params = profile.train
    generator = family.generator(params.generator.timestep, params.generator.noise_scale, weights).to(device)
    assistant = family.assistant().to(device)
    return Subject(
        family,
        text_encoder.to(device),
        _trainable(generator, params.generator.optimizer),
        _trainable(assistant, params.assistant.optimizer),
        reward.to(device),
        params,
    )


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def _trainable(module: ModuleT, params: OptimizerParams) -> Trainable[ModuleT]:
    return Trainable(module, module, build_optimizer(module.parameters(), params), params.max_grad_norm)


def _tiny(profile: Profile) -> tuple[Family, TextEncoder, Reward]:
    folder = _TINY / "reference"
    text_encoder = profile.reference.build_text_encoder(folder)
    family = profile.reference.build(folder, text_encoder.encode_null())
    return family, text_encoder, profile.rewards["preference"].build(_TINY / "preference")


def _random() -> tuple[Family, TextEncoder, Reward]:
    """Draw networks of Stable Diffusion 1.5's shape: a UNet of a hundred million parameters, the others to match."""
    tokenizer = CLIPTokenizer.from_pretrained(_TINY / "reference" / "tokenizer")
    text: Any = {
        "vocab_size": len(tokenizer),
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(112, 224, 448, 448),
        norm_num_groups=16,
        attention_head_dim=7,  # that many heads; of 16, 32 and 64 channels, as GPUs' attention takes them
        cross_attention_dim=768,
    )
    of_autoencoder: Any = {
        "sample_size": 256,
        "block_out_channels": (64, 128, 256, 256),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    autoencoder = AutoencoderKL(**of_autoencoder)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    text_encoder = CLIPTextEncoder(CLIPTextModel(CLIPTextConfig(**text)), tokenizer)
    family = StableDiffusion15(unet, autoencoder, scheduler, text_encoder.encode_null())
    return family, text_encoder, _random_reward(tokenizer, text)


def _random_reward(tokenizer: Any, text: dict[str, Any]) -> Reward:
    vision: Any = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    small = text | {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    with tempfile.TemporaryDirectory() as folder:  # a reward is read from the hub's layout
        CLIPModel(CLIPConfig(text_config=small, vision_config=vision)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (Path(folder) / "preprocessor_config.json").write_bytes(
            (_TINY / "preference" / "preprocessor_config.json").read_bytes()
        )
        return ClipReward(Path(folder), scale=None)
