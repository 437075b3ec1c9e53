"""What a reward is: `(images, prompts) -> score`, differentiable in the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Reward(nn.Module):
    """Score images in [0, 1] against their prompts; higher is better.

    Rewards are frozen and stay in evaluation mode: a reward with dropout is a different reward at each call.

    Attributes:
        max_tokens: how many tokens of a prompt are read, the special ones included; None if it is not cut.
    """

    max_tokens: int | None = None

    def freeze(self) -> None:
        """Switch off training for good; to be called once the weights are in place."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Reward:
        """Stay in evaluation mode whatever is asked."""
        super().train(False)
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it scores images")

    def count_cut(self, prompts: Sequence[str]) -> int:
        """Count the prompts that are longer than what is read of them."""
        if self.max_tokens is None:
            return 0
        return sum(self.num_tokens(prompt) > self.max_tokens for prompt in prompts)

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        raise NotImplementedError(f"{type(self).__name__} cuts prompts but does not say how long they are")


def full_precision(features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Widen to fp32 before the last product: half precision near 0.28 moves in steps of 0.00024."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
