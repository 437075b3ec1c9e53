"""What a reward is: `(images, prompts) -> score`, differentiable in the images."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Reward(nn.Module):
    """Score images in [0, 1] against their prompts; higher is better.

    Rewards are frozen and stay in evaluation mode: a reward with dropout is a different reward at each call.
    """

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
