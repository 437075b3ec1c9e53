"""Which families of reference models there are, the files that each needs, and how it is built; nothing here computes.

`build` imports the family's own file: half of the stages read parameters and no tensor, and would wait for torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from distar.diffusion.families.pipeline import component_class, load_model, write_pipeline
from distar.imports import lasting_imports
from distar.model_files import LICENCE_TEXTS, ModelFiles

if TYPE_CHECKING:
    from distar.diffusion.families.family import Family, TextEncoder
    from distar.diffusion.prompt import PromptEmbedding


class ReferenceModel(BaseModel, ABC):
    """A reference model in the hub's layout of a diffusers pipeline.

    `variant` chooses between a component's files where the repository holds several, such as `fp16`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    network_name: ClassVar[str] = "unet"
    """The pipeline's name of its denoising network."""
    tokenizer_names: ClassVar[tuple[str, ...]] = ("tokenizer",)
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_weights: ClassVar[str] = "model"
    """How a text encoder's files of weights begin; a pattern where they come in parts, with an index."""
    call_options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the plain pipeline's call without which it would draw something else."""

    source: str
    variant: Literal["fp16"] | None

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Return the files that are needed: configurations, tokenizers, one file of weights a component; licences."""
        suffix = f".{self.variant}" if self.variant else ""
        networks, encoders = (self.network_name, "vae"), self.text_encoder_names
        needed = ["model_index.json", "scheduler/scheduler_config.json"]
        needed += [f"{name}/config.json" for name in (*networks, *encoders)]
        needed += [f"{name}/diffusion_pytorch_model{suffix}.safetensors" for name in networks]
        needed += [f"{name}/{self.text_weights}{suffix}.safetensors" for name in encoders]
        needed += [f"{name}/*" for name in self.tokenizer_names]
        optional = [f"{name}/model.safetensors.index.json" for name in encoders]
        return {"": ModelFiles(self.source, tuple(needed), optional=(*optional, *LICENCE_TEXTS))}

    @abstractmethod
    def build(self, folder: Path, null_prompt: PromptEmbedding) -> Family:
        """Load everything but the text encoders from a folder, in fp32.

        Args:
            folder: the pipeline.
            null_prompt: the embedding of "no prompt", a batch of one.
        """

    @abstractmethod
    def build_text_encoder(self, folder: Path) -> TextEncoder:
        """Load the text encoders and their tokenizers from a folder, in fp32."""

    def networks(self, folder: Path) -> tuple[Any, Any, Any]:
        """Load the denoising network and the autoencoder, in fp32, and the scheduler."""
        with lasting_imports():
            from diffusers.utils import logging  # to encode prompts takes transformers alone

        logging.disable_progress_bar()  # of loading and saving weights: a stage has its own
        network, autoencoder = (load_model(folder, name, self.variant) for name in (self.network_name, "vae"))
        return network, autoencoder, component_class(folder, "scheduler").from_pretrained(folder / "scheduler")

    def text_models(self, folder: Path) -> tuple[list[Any], list[Any]]:
        """Load the text encoders, in fp32, and their tokenizers."""
        encoders = [load_model(folder, name, self.variant) for name in self.text_encoder_names]
        tokenizers = [
            component_class(folder, name).from_pretrained(folder / name, local_files_only=True)
            for name in self.tokenizer_names
        ]
        return encoders, tokenizers

    def write_pipeline(self, reference_dir: Path, weights_dir: Path, folder: Path) -> None:
        """Write the reference's pipeline with a generator's network, for plain diffusers; `folder` must not exist."""
        kept = ("vae", *self.tokenizer_names, *self.text_encoder_names)
        write_pipeline(reference_dir, weights_dir, folder, self.network_name, kept, self.variant)


class PixArt(ReferenceModel):
    """A reference of the PixArt-α family, in the layout of `PixArtAlphaPipeline`."""

    network_name: ClassVar[str] = "transformer"
    text_weights: ClassVar[str] = "model*"
    max_tokens: ClassVar[int] = 120
    """What PixArt-α was trained with; T5 itself has no limit."""
    call_options: ClassVar[Mapping[str, Any]] = {
        "clean_caption": False,  # needs packages of its own, and would rewrite the prompt where they are installed
        "use_resolution_binning": False,
    }

    family: Literal["pixart"]

    def build(self, folder: Path, null_prompt: PromptEmbedding) -> Family:
        """Load transformer, autoencoder and schedule."""
        from distar.diffusion.families.pixart import PixArtAlpha

        return PixArtAlpha(*self.networks(folder), null_prompt)

    def build_text_encoder(self, folder: Path) -> TextEncoder:
        """Load the T5 encoder and its tokenizer."""
        from distar.diffusion.families.pixart import T5TextEncoder

        (encoder,), (tokenizer,) = self.text_models(folder)
        return T5TextEncoder(encoder, tokenizer, self.max_tokens)


class SD15(ReferenceModel):
    """A reference of the Stable Diffusion 1.5 family, in the layout of `StableDiffusionPipeline`."""

    family: Literal["sd15"]

    def build(self, folder: Path, null_prompt: PromptEmbedding) -> Family:
        """Load UNet, autoencoder and schedule."""
        from distar.diffusion.families.sd15 import StableDiffusion15

        return StableDiffusion15(*self.networks(folder), null_prompt)

    def build_text_encoder(self, folder: Path) -> TextEncoder:
        """Load the CLIP text encoder and its tokenizer."""
        from distar.diffusion.families.sd15 import CLIPTextEncoder

        (encoder,), (tokenizer,) = self.text_models(folder)
        return CLIPTextEncoder(encoder, tokenizer)


class SDXL(ReferenceModel):
    """A reference of the SDXL family, in the layout of `StableDiffusionXLPipeline`."""

    tokenizer_names: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")

    family: Literal["sdxl"]

    def build(self, folder: Path, null_prompt: PromptEmbedding) -> Family:
        """Load UNet, autoencoder and schedule."""
        from distar.diffusion.families.sdxl import StableDiffusionXL

        return StableDiffusionXL(*self.networks(folder), null_prompt)

    def build_text_encoder(self, folder: Path) -> TextEncoder:
        """Load both CLIP text encoders and their tokenizers."""
        from distar.diffusion.families.sdxl import TwoCLIPTextEncoders

        encoders, tokenizers = self.text_models(folder)
        return TwoCLIPTextEncoders(*encoders, *tokenizers)


ReferenceParams = Annotated[PixArt | SD15 | SDXL, Field(discriminator="family")]
