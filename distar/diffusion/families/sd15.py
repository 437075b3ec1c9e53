"""Stable Diffusion 1.5 and its kin: UNet2DConditionModel, AutoencoderKL, CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.denoiser import NetworkCall
from distar.diffusion.families.family import Family, TextEncoder
from distar.diffusion.prompt import PromptEmbedding


class CLIPTextEncoder(TextEncoder):
    """Encode prompts as `hidden_states`: the last hidden states, shape (b, tokens, d)."""

    def __init__(self, encoder: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.tokenizers = {"tokenizer": (tokenizer, self.encoder.config.max_position_embeddings)}
        self.freeze()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts."""
        input_ids = self.tokenize("tokenizer", prompts).input_ids
        return PromptEmbedding({"hidden_states": self.encoder(input_ids.to(self.encoder.device))[0]})


class StableDiffusion15(Family):
    """Call the UNet with hidden states alone."""

    @property
    def call(self) -> NetworkCall:
        """How the network is called."""
        return call_unet


def call_unet(
    network: nn.Module, x_t: Float[Tensor, "b c h w"], timestep: Int[Tensor, " b"], prompt: PromptEmbedding
) -> Float[Tensor, "b c h w"]:
    """Call a UNet2DConditionModel with the text encoder's hidden states."""
    return network(x_t, timestep, encoder_hidden_states=prompt.tensors["hidden_states"]).sample
