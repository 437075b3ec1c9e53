"""Published models at their real sizes without their weights, for what counts or measures an iteration of them."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from distar.bench.subject import Subject
from distar.diffusion.assistant import Assistant
from distar.diffusion.families.family import Family
from distar.diffusion.families.pixart import PixArtAlpha
from distar.diffusion.families.published import published_component, published_configuration
from distar.diffusion.families.sd15 import StableDiffusion15
from distar.diffusion.families.sdxl import StableDiffusionXL
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.networks import (
    checkpoint_activations,
    checkpoint_decoder,
    narrow_frozen,
    narrow_norms,
)
from distar.diffusion.params import Checkpointing, LoraParams
from distar.diffusion.prompt import PromptEmbedding
from distar.rewards.cosine import CosineReward
from distar.rewards.preprocess import CLIP_MEAN, CLIP_STD, Normalise, crop_centre, resize_short_side
from distar.training.params import TrainParams
from distar.training.step import Batch, Trainable

FAMILIES: dict[str, type[Family]] = {"sd15": StableDiffusion15, "sdxl": StableDiffusionXL, "pixart": PixArtAlpha}
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
VISION = {  # of ViT-L/14, as ImageReward's size; of ViT-H/14, as PickScore and HPSv2
    "sd15": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "sdxl": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
}


def model_parser(description: str | None) -> argparse.ArgumentParser:
    """Build a command line's parser: which model, and what of its profile is otherwise."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("profile", choices=FAMILIES)
    arguments.add_argument("--lora", type=int, metavar="RANK", help="adapters in place of whole networks")
    arguments.add_argument("--own-initial-weights", action="store_true", help="with --lora: not the reference's")
    arguments.add_argument("--micro-batch-size", type=int, help="the profile's, unless given")
    arguments.add_argument(
        "--optimizer", choices=["adamw", "adamw_fused", "adamw_8bit"], help="the profile's, unless given"
    )
    arguments.add_argument("--frozen-micro-batch-size", type=int, help="the profile's, unless given")
    arguments.add_argument("--reward-micro-batch-size", type=int, help="the profile's, unless given")
    arguments.add_argument("--checkpointing", choices=get_args(Checkpointing), help="the profile's, unless given")
    arguments.add_argument("--norms-in-fp32", action="store_true", help="as autocast has them on CUDA")
    return arguments


@dataclass(frozen=True)
class Networks:
    """Everything that an iteration holds, kept as a run of the profile in bf16 keeps it."""

    family: Family
    generator: OneStepGenerator
    assistant: Assistant
    reward: CosineReward

    @property
    def denoisers(self) -> list[nn.Module]:
        """The three denoising networks."""
        return [self.family.network, self.generator.denoiser.network, self.assistant.network]


def build_networks(options: argparse.Namespace, train: TrainParams, device: str) -> Networks:
    """Build a published model's networks with random weights; on `meta` they have no data."""
    family = _build_family(options.profile, device)
    lora = LoraParams(rank=options.lora, alpha=options.lora, target_modules=ADAPTED) if options.lora else None
    generator = family.generator(train.generator.timestep, train.generator.noise_scale, None, lora)
    if lora and options.own_initial_weights:
        for layer in generator.modules():
            layer._parameters = {name: copy.copy(parameter) for name, parameter in layer._parameters.items()}
    reward = ClipOfSize(VISION["sdxl" if options.profile == "sdxl" else "sd15"], device)
    networks = Networks(family, generator, family.assistant(lora), reward)
    for module in (*networks.denoisers, reward):
        narrow_frozen(module, torch.bfloat16)
    for network in () if options.norms_in_fp32 else (*networks.denoisers, family.autoencoder):
        narrow_norms(network)
    if checkpointing(options, train) != "none":
        checkpoint_decoder(family.autoencoder)
    if checkpointing(options, train) == "all":
        for network in networks.denoisers:
            checkpoint_activations(network)
    return networks


def checkpointing(options: argparse.Namespace, train: TrainParams) -> Checkpointing:
    """Say whose activations are computed twice."""
    return options.checkpointing or train.gradient_checkpointing


def micro_batch_sizes(options: argparse.Namespace, train: TrainParams) -> tuple[int, int, int]:
    """Return how many samples trained networks take at once, how many frozen ones, and how many decoder and reward."""
    return (
        options.micro_batch_size or train.micro_batch_size,
        options.frozen_micro_batch_size or train.frozen_micro_batch_size,
        options.reward_micro_batch_size or train.reward_micro_batch_size,
    )


def make_subject(networks: Networks, optimizers: Sequence[torch.optim.Optimizer], train: TrainParams) -> Subject:
    """Put networks and optimizers together; nothing here encodes prompts."""
    generator, assistant = networks.generator, networks.assistant
    return Subject(
        networks.family,
        cast("Any", None),
        Trainable(generator, generator, optimizers[0], train.generator.optimizer.max_grad_norm),
        Trainable(assistant, assistant, optimizers[1], train.assistant.optimizer.max_grad_norm),
        networks.reward,
        train,
    )


def encode(name: str, size: int) -> PromptEmbedding:
    """Make embeddings of a published model's shapes."""
    match name:
        case "sdxl":
            return PromptEmbedding({"hidden_states": torch.zeros(size, 77, 2048), "pooled": torch.zeros(size, 1280)})
        case "pixart":
            mask = torch.ones(size, 120, dtype=torch.int64)
            return PromptEmbedding({"hidden_states": torch.zeros(size, 120, 4096), "attention_mask": mask})
        case _:
            return PromptEmbedding({"hidden_states": torch.zeros(size, 77, 768)})


def make_batch(name: str, family: Family, size: int) -> Batch:
    """Make a batch without a prompt's words in it."""
    shape = (size, *family.latent_shape)
    return Batch(("",) * size, encode(name, size), torch.zeros(shape), torch.zeros(shape), torch.full((size,), 500))


class ClipOfSize(CosineReward):
    """A CLIP reward of a published size; its prompts are encoded already, all alike."""

    _text: Tensor

    def __init__(self, vision: dict[str, int], device: str) -> None:
        super().__init__(scale=100.0)
        with torch.device(device):
            self.model: Any = CLIPModel(CLIPConfig(vision_config={**vision, "patch_size": 14}, projection_dim=1024))
        self.model.requires_grad_(False).eval()
        self._normalise = Normalise(CLIP_MEAN, CLIP_STD)
        self.register_buffer("_text", torch.full((1, 1024), 1 / 32), persistent=False)

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed pictures."""
        pixels = self._normalise(crop_centre(resize_short_side(images.float(), 224), 224))
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def embed_prompt(self, prompt: str) -> Tensor:
        """Return the embedding that stands for every prompt."""
        return self._text


def _build_family(name: str, device: str) -> Family:
    configuration = published_configuration(name)
    scheduler = {k: v for k, v in configuration["scheduler"].items() if k != "_class_name"}
    return FAMILIES[name](
        published_component(name, "network", device),
        published_component(name, "vae", device),
        DDIMScheduler(**scheduler),
        encode(name, 1),
    )
