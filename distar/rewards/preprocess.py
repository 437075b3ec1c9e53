"""How pictures are brought to what a reward's network sees; every step is differentiable.

What resizes returns memory of its own, in which later steps work: new memory for a batch of pictures costs a CPU more
than to compute on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel, in place."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalise images in [0, 1]."""
        return images.sub_(self.mean).div_(self.std)


def resize_short_side(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 h2 w2"]:
    """Resize (bicubic, antialiased) as an 8-bit picture is: the short side is `size` pixels, the long one rounded down.

    Pillow resizes rows, then columns, and rounds to 8 bits after each, which moves scores more than any other step.
    Values follow it; gradients are those without rounding.
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    height, width = height * size // short, width * size // short
    resized = images
    for step in ((images.shape[-2], width), (height, width)):
        if resized.shape[-2:] != step:
            resized = _Round.apply(_resize(resized, step, antialias=True))
    return images.clone() if resized is images else resized


def crop_centre(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 size size"]:
    """Cut out the middle; an odd row or column too many is cut off at the end."""
    top, left = ((side - size) // 2 for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def letterbox(images: Float[Tensor, "b 3 h w"], size: int, antialias: bool) -> Float[Tensor, "b 3 size size"]:
    """Resize (bicubic) so that the long side is `size` pixels, and fill up with black on both sides."""
    scale = size / max(images.shape[-2:])
    height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
    rows, columns = size - height, size - width
    margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    resized = _resize(images, (height, width), antialias)
    return F.pad(resized, margins) if any(margins) else resized  # padding by nothing would copy


class _Round(torch.autograd.Function):
    """Round to 8 bits, in place; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        ctx.mark_dirty(images)
        return images.clamp_(0, 1).mul_(255).round_().div_(255)

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return gradients[0]


def _resize(images: Float[Tensor, "b 3 h w"], size: tuple[int, int], antialias: bool) -> Float[Tensor, "b 3 h2 w2"]:
    if images.shape[-2:] == size:
        return images.clone()
    return F.interpolate(images, size, mode="bicubic", antialias=antialias, align_corners=False)
