"""Rewards that are the cosine of a picture's and a prompt's embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distar.rewards.reward import Reward, full_precision


class CosineReward(Reward):
    """Cosine of picture and prompt, times `scale`; a subclass says how the two are embedded."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self._text_features: dict[str, Tensor] = {}

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt, in fp32 from the features on."""
        return self.scale * (self.image_features(images) * self.text_features(prompts)).sum(1)

    def image_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embed images on the unit sphere."""
        return F.normalize(full_precision(self.embed_images(images)), dim=1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Embed prompts on the unit sphere; each prompt is encoded once in the reward's life.

        It is encoded alone: in a batch its last bits would depend on the batch's size, and so on what was asked
        before, and a resumed run would no longer equal an uninterrupted one.
        """
        for prompt in prompts:
            if prompt not in self._text_features:
                self._text_features[prompt] = F.normalize(full_precision(self.embed_prompt(prompt)), dim=1)[0]
        return torch.stack([self._text_features[prompt] for prompt in prompts])

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embed images in [0, 1] of any size."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it embeds images")

    def embed_prompt(self, prompt: str) -> Float[Tensor, "1 d"]:
        """Embed one prompt, cut where the model stops reading."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it embeds prompts")
