"""The linear head that the aesthetic predictor and ImageReward share."""

from __future__ import annotations

from torch import nn


def score_head(width: int) -> nn.Sequential:
    """Build the head `layers.{0,2,4,6,7}` of the published weights: five linear layers, no activations.

    The layers between them are the dropouts of its training, which do nothing in a reward.
    """
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Identity(),
        nn.Linear(1024, 128),
        nn.Identity(),
        nn.Linear(128, 64),
        nn.Identity(),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
