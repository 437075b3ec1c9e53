"""PixArt-α: a diffusion transformer that also predicts a variance, and a T5 text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.denoiser import NetworkCall
from distar.diffusion.families.family import Family, TextEncoder
from distar.diffusion.prompt import PromptEmbedding


class T5TextEncoder(TextEncoder):
    """Encode lower-cased prompts as `hidden_states` (b, tokens, d) and `attention_mask` (b, tokens), 1 at real ones."""

    def __init__(self, encoder: nn.Module, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.tokenizers = {"tokenizer": (tokenizer, max_tokens)}
        self.freeze()

    def normalise(self, prompts: Sequence[str]) -> list[str]:
        """Write prompts in lower case."""
        return [prompt.lower().strip() for prompt in prompts]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts."""
        tokens = self.tokenize("tokenizer", prompts).to(self.encoder.device)
        hidden_states = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return PromptEmbedding({"hidden_states": hidden_states, "attention_mask": tokens.attention_mask})


class PixArtAlpha(Family):
    """Call the transformer with hidden states and their mask; of its 2c output channels the first c are eps."""

    @property
    def call(self) -> NetworkCall:
        """How the network is called."""
        return partial(call_transformer, self.pixels_per_latent)


def call_transformer(
    pixels_per_latent: int,
    network: nn.Module,
    x_t: Float[Tensor, "b c h w"],
    timestep: Int[Tensor, " b"],
    prompt: PromptEmbedding,
) -> Float[Tensor, "b c h w"]:
    """Call a PixArtTransformer2DModel; the 1024-pixel models are also told the picture's size and aspect ratio."""
    conditions: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if network.config.sample_size == 128:  # type: ignore[union-attr]
        height, width = (side * pixels_per_latent for side in x_t.shape[-2:])
        conditions["resolution"] = x_t.new_tensor([height, width]).expand(len(x_t), -1)
        conditions["aspect_ratio"] = x_t.new_tensor([height / width]).expand(len(x_t), -1)
    output = network(
        x_t,
        encoder_hidden_states=prompt.tensors["hidden_states"],
        encoder_attention_mask=prompt.tensors["attention_mask"],
        timestep=timestep,
        added_cond_kwargs=conditions,
    ).sample
    return output.chunk(2, dim=1)[0]
