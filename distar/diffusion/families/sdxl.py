"""SDXL: a UNet2DConditionModel that is also told a pooled embedding and the picture's size; two CLIP text encoders."""

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


class TwoCLIPTextEncoders(TextEncoder):
    """Encode prompts with both encoders.

    `hidden_states` of shape (b, tokens, d1 + d2) are those before each encoder's last layer; `pooled` of shape
    (b, d2) is the second encoder's projection.
    """

    def __init__(self, first: nn.Module, second: nn.Module, first_tokenizer: Any, second_tokenizer: Any) -> None:
        super().__init__()
        self.first: Any = first
        self.second: Any = second
        self.tokenizers = {
            "tokenizer": (first_tokenizer, self.first.config.max_position_embeddings),
            "tokenizer_2": (second_tokenizer, self.second.config.max_position_embeddings),
        }
        self.freeze()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts."""
        device = self.first.device
        ids = [self.tokenize(name, prompts).input_ids.to(device) for name in self.tokenizers]
        first = self.first(ids[0], output_hidden_states=True)
        second = self.second(ids[1], output_hidden_states=True)
        hidden_states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return PromptEmbedding({"hidden_states": hidden_states, "pooled": second.text_embeds})

    def encode_null(self) -> PromptEmbedding:
        """Encode "no prompt" as zeros, as the pipeline's `force_zeros_for_empty_prompt` does."""
        return PromptEmbedding({name: torch.zeros_like(value) for name, value in self.encode([""]).tensors.items()})


class StableDiffusionXL(Family):
    """Call the UNet with hidden states, pooled embedding and time ids."""

    @property
    def call(self) -> NetworkCall:
        """How the network is called."""
        return partial(call_sdxl_unet, self.pixels_per_latent)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode in fp32 whatever the precision around it: SDXL's autoencoder overflows in halves."""
        with torch.autocast(latents.device.type, enabled=False):
            return super().decode(latents.float())


def call_sdxl_unet(
    pixels_per_latent: int,
    network: nn.Module,
    x_t: Float[Tensor, "b c h w"],
    timestep: Int[Tensor, " b"],
    prompt: PromptEmbedding,
) -> Float[Tensor, "b c h w"]:
    """Call SDXL's UNet for uncropped pictures of the latents' own size.

    The time ids are (height, width, top, left, target height, target width), in pixels.
    """
    height, width = (side * pixels_per_latent for side in x_t.shape[-2:])
    ids = x_t.new_zeros(len(x_t), 6)  # filled where it lies: the host would wait for a GPU to take a tensor from it
    ids[:, 0::4] = height
    ids[:, 1::4] = width
    conditions = {"text_embeds": prompt.tensors["pooled"], "time_ids": ids}
    hidden_states = prompt.tensors["hidden_states"]
    return network(x_t, timestep, encoder_hidden_states=hidden_states, added_cond_kwargs=conditions).sample
