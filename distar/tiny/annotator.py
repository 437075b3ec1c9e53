"""The simulated annotator: whose pairwise choices the tiny preference reward is trained on.

Not a person. It prefers, in this order of weight: the caption's attributes, a clean picture, vivid colour,
a centred subject, a good size.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from distar.tiny.world import Scene, Subject

GOOD_SIZE = 0.33
_SHAPE, _COLOUR, _BACKGROUND = 3.0, 2.5, 2.0
_CLEAN, _VIVID, _CENTRED, _SIZE = 2.5, 2.0, 1.5, 1.5
_MAX_OFFSET = 0.12 * math.sqrt(2)
_INDECISION = 0.6


def utility(wanted: Subject, scene: Scene, corruption: float) -> float:
    """Tell how much the annotator likes a scene for a caption.

    `corruption` is the noise that was added to the picture's latents, in units of their standard
    deviation: 0 is clean.
    """
    shown = scene.subject
    off_centre = math.hypot(scene.x, scene.y) / _MAX_OFFSET
    off_size = abs(scene.size - GOOD_SIZE) / 0.09
    return (
        _SHAPE * (shown.shape == wanted.shape)
        + _COLOUR * (shown.colour == wanted.colour)
        + _BACKGROUND * (shown.background == wanted.background)
        - _CLEAN * corruption
        + _VIVID * scene.vividness
        - _CENTRED * off_centre
        - _SIZE * off_size
    )


def preference_probability(advantage: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Tell how likely the annotator is to choose a picture whose utility is higher by `advantage` (Bradley-Terry)."""
    return torch.sigmoid(advantage / _INDECISION)
