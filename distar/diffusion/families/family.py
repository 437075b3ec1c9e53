"""What all families of reference models share: decoding, and the three players."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distar.diffusion.adapters import add_adapters, sharing_weights
from distar.diffusion.assistant import Assistant
from distar.diffusion.denoiser import Denoiser, NetworkCall
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.parametrization import Prediction
from distar.diffusion.params import LoraParams, NoiseScale
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference
from distar.diffusion.schedule import Schedule
from distar.errors import ModelFileError


class TextEncoder(nn.Module, ABC):
    """A family's frozen text encoders with their tokenizers.

    `tokenizers` maps each tokenizer's name to it and to the number of tokens that its encoder reads.
    """

    tokenizers: Mapping[str, tuple[Any, int]]

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts as the family's denoiser wants them."""

    def encode_null(self) -> PromptEmbedding:
        """Encode "no prompt", a batch of one."""
        return self.encode([""])

    def tokenize(self, name: str, prompts: Sequence[str]) -> Any:
        """Tokenize prompts to tensors of the encoder's length, shape (b, tokens), as diffusers' pipelines do."""
        tokenizer, max_tokens = self.tokenizers[name]
        return tokenizer(
            self.normalise(prompts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        )

    def num_tokens(self, name: str, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens for a tokenizer, the special ones included, before it is cut."""
        tokenizer, _ = self.tokenizers[name]
        return [len(ids) for ids in tokenizer(self.normalise(prompts), truncation=False, verbose=False).input_ids]

    def normalise(self, prompts: Sequence[str]) -> list[str]:
        """Rewrite prompts as the family's pipeline does before it tokenizes them."""
        return list(prompts)

    def freeze(self) -> None:
        """Switch off training for good; to be called once the weights are in place."""
        self.requires_grad_(False)
        self.eval()


class Family(nn.Module, ABC):
    """A family's denoising network, autoencoder and schedule, and how to call them.

    All are frozen; `assistant` and `generator` are made from copies of the denoising network.

    Args:
        network: the reference's denoising network.
        autoencoder: a diffusers `AutoencoderKL`.
        scheduler: the reference's scheduler, of which betas and the meaning of the output are taken.
        null_prompt: the embedding of "no prompt", a batch of one.
    """

    def __init__(
        self, network: nn.Module, autoencoder: nn.Module, scheduler: Any, null_prompt: PromptEmbedding
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.autoencoder: Any = autoencoder
        self.schedule = Schedule(scheduler.alphas_cumprod.double())
        self.prediction: Prediction = scheduler.config.prediction_type
        self._null_prompt = null_prompt
        self.requires_grad_(False)
        self.eval()

    @property
    @abstractmethod
    def call(self) -> NetworkCall:
        """How the network is called."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        size = self.network.config.sample_size
        return self.network.config.in_channels, size, size

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent is wide."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        """Where the components are."""
        return self.network.device

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode latents to images in [0, 1], differentiably; in fp32 if autocast computes in less.

        The clamp lets gradients through unchanged: a hard one would leave saturated pixels without any.
        """
        decoded = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        # steps of bf16 are as wide as those of 8 bits, and halving them is exact in fp32 alone
        images = decoded.to(torch.promote_types(decoded.dtype, torch.float32)) / 2 + 0.5
        return images + (images.clamp(0, 1) - images).detach()

    def reference(self) -> Reference:
        """Make the frozen reference; it shares its weights with this object."""
        return Reference(*self._denoiser_parts(self.network))

    def assistant(self, lora: LoraParams | None = None, seed: int = 0) -> Assistant:
        """Make a trainable assistant that starts from the reference.

        With `lora` it is adapters on the reference's own weights, drawn from `seed`.

        Raises:
            ParameterError: the network has no layers as `lora` names them.
        """
        return Assistant(*self._denoiser_parts(self._trainable_network(None, lora, seed)))

    def generator(
        self,
        timestep: int,
        noise_scale: NoiseScale,
        weights_dir: Path | None,
        lora: LoraParams | None = None,
        seed: int = 0,
    ) -> OneStepGenerator:
        """Make a trainable one-step generator from the weights in `weights_dir`, or from the reference if None.

        With `lora` it is adapters, drawn from `seed`, on those weights; the reference's are not copied for it.

        Raises:
            ModelFileError: the folder does not hold one file of weights, or they are not this network's.
            ParameterError: the network has no layers as `lora` names them.
        """
        denoiser = Denoiser(*self._denoiser_parts(self._trainable_network(weights_dir, lora, seed)))
        return OneStepGenerator(denoiser, timestep, noise_scale)

    def _trainable_network(self, weights_dir: Path | None, lora: LoraParams | None, seed: int) -> nn.Module:
        shared = weights_dir is None and lora is not None
        network = sharing_weights(self.network) if shared else copy.deepcopy(self.network)
        if weights_dir is not None:
            load_weights(network, weights_dir)
        if lora is None:
            return network.requires_grad_(True)
        add_adapters(network, lora, seed)
        return network

    def save_generator(self, generator: OneStepGenerator, weights_dir: Path) -> None:
        """Write a generator's network in diffusers' layout, as one file; `generator` reads it back."""
        cast("Any", generator.denoiser.network).save_pretrained(weights_dir, max_shard_size="100GB")

    def _denoiser_parts(
        self, network: nn.Module
    ) -> tuple[nn.Module, NetworkCall, Schedule, Prediction, PromptEmbedding]:
        schedule = self.schedule.to(self.device, torch.float32)
        null_prompt = self._null_prompt.to(self.device, torch.float32)
        return network, self.call, schedule, self.prediction, null_prompt


def load_weights(network: nn.Module, folder: Path) -> None:
    """Load a network's state dict from the one `.safetensors` or pickled `.bin` file of a folder, strictly.

    Raises:
        ModelFileError: there is not exactly one such file, or its names or shapes are not the network's.
    """
    from safetensors.torch import load_file

    files = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"})
    if len(files) != 1:
        raise ModelFileError(
            f"{folder} holds {len(files)} files of weights ({', '.join(f.name for f in files) or 'none'}), and one is "
            "expected; let the source name the file itself, as in hf://owner/name@REVISION/unet/FILE.safetensors"
        )
    if files[0].suffix == ".bin":
        state = torch.load(files[0], map_location="cpu", weights_only=True)
    else:
        state = load_file(files[0])
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelFileError(f"{files[0]} does not hold the reference's network: {error}") from error
