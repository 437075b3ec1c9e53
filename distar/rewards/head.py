"""The linear head that the aesthetic predictor and ImageReward share."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distar.rewards.reward import full_precision


class ScoreHead(nn.Module):
    """Five linear layers, no activations, under the names of the published weights: `layers.{0,2,4,6,7}`.

    The layers between them are the dropouts of its training, which do nothing in a reward. It computes in fp32 whatever
    the precision around it: a score near 6 would move in steps of 0.03 in bf16.
    """

    keep_in_fp32: ClassVar[bool] = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features: Float[Tensor, "b width"]) -> Float[Tensor, " b"]:
        """Score each picture's features."""
        with torch.autocast(features.device.type, enabled=False):
            return self.layers(full_precision(features))[:, 0]
