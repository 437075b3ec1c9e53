"""Stable Diffusion 1.5 and its kin: UNet2DConditionModel, AutoencoderKL, CLIP text encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from distar.diffusion.assistant import Assistant
from distar.diffusion.denoiser import Denoiser, NetworkCall
from distar.diffusion.generator import NoiseScale, OneStepGenerator
from distar.diffusion.parametrization import Prediction
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference
from distar.diffusion.schedule import Schedule
from distar.model_files import ModelFiles

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class SD15(BaseModel):
    """A reference of the Stable Diffusion 1.5 family, in the layout of `StableDiffusionPipeline`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    family: Literal["sd15"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The files that `build` loads."""
        return {"": ModelFiles(self.source)}

    def build(self, folder: Path) -> StableDiffusion15:
        """Load every component from a folder, in fp32."""
        return StableDiffusion15(folder)


class StableDiffusion15(nn.Module):
    """The family's components, and how to call them.

    All of them are frozen; `assistant` and `generator` are made from copies of the denoising network.
    """

    def __init__(self, folder: Path) -> None:
        from diffusers import StableDiffusionPipeline

        super().__init__()
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
        self.network = pipeline.unet
        self.autoencoder = pipeline.vae
        self.text_encoder = pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        scheduler = pipeline.scheduler
        self.schedule = Schedule(scheduler.alphas_cumprod.double())
        self.prediction = scheduler.config.prediction_type
        self._scheduler_config = dict(scheduler.config)
        self.requires_grad_(False)
        self.eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        size = self.network.config.sample_size
        return self.network.config.in_channels, size, size

    @property
    def device(self) -> torch.device:
        """Where the components are."""
        return self.network.device

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts with the text encoder's last hidden state, shape (b, tokens, d)."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return PromptEmbedding({"hidden_states": self.text_encoder(tokens.input_ids.to(self.device))[0]})

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode latents to images in [0, 1], differentiably.

        The clamp lets gradients through unchanged: a hard one would leave saturated pixels without any.
        """
        images = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample / 2 + 0.5
        return images + (images.clamp(0, 1) - images).detach()

    def reference(self) -> Reference:
        """Make the frozen reference; it shares its weights with this object."""
        return Reference(*self._denoiser_parts(self.network))

    def assistant(self) -> Assistant:
        """Make a trainable assistant that starts from the reference."""
        return Assistant(*self._denoiser_parts(copy.deepcopy(self.network).requires_grad_(True)))

    def generator(self, timestep: int, noise_scale: NoiseScale, weights_dir: Path | None) -> OneStepGenerator:
        """Make a trainable one-step generator from `weights_dir`, or from the reference if that is None."""
        if weights_dir is None:
            network = copy.deepcopy(self.network)
        else:
            network = type(self.network).from_pretrained(weights_dir, dtype=torch.float32, local_files_only=True)
        denoiser = Denoiser(*self._denoiser_parts(network.to(self.device).requires_grad_(True)))
        return OneStepGenerator(denoiser, timestep, noise_scale)

    def save_generator(self, generator: OneStepGenerator, weights_dir: Path) -> None:
        """Write a generator's network in diffusers' layout; `generator` reads it back."""
        cast("UNet2DConditionModel", generator.denoiser.network).save_pretrained(weights_dir)

    def save_pipeline(self, weights_dir: Path, folder: Path) -> None:
        """Write a pipeline that plain diffusers loads: this family's components with the generator's network."""
        from diffusers import LCMScheduler

        network = type(self.network).from_pretrained(weights_dir, dtype=torch.float32, local_files_only=True)
        scheduler = LCMScheduler.from_config(self._scheduler_config, clip_sample=False)
        write_pipeline(folder, self.autoencoder, self.text_encoder, self.tokenizer, network, scheduler)

    def _denoiser_parts(
        self, network: nn.Module
    ) -> tuple[nn.Module, NetworkCall, Schedule, Prediction, PromptEmbedding]:
        schedule = self.schedule.to(self.device, torch.float32)
        return network, call_unet, schedule, self.prediction, self.encode_prompts([""])


def write_pipeline(
    folder: Path, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, unet: nn.Module, scheduler: Any
) -> None:
    """Write components as a `StableDiffusionPipeline` without safety checker."""
    from diffusers import StableDiffusionPipeline

    components: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**components, requires_safety_checker=False).save_pretrained(folder)


def call_unet(
    network: nn.Module, x_t: Float[Tensor, "b c h w"], timestep: Int[Tensor, " b"], prompt: PromptEmbedding
) -> Float[Tensor, "b c h w"]:
    """Call a UNet2DConditionModel with the text encoder's hidden states."""
    return network(x_t, timestep, encoder_hidden_states=prompt.tensors["hidden_states"]).sample
