"""What is measured of pictures beside rewards, and how two sets of pictures are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def picture_statistics(images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, " b"]]:
    """Measure each picture's saturation, share of clipped channel values, and high-frequency energy.

    All three rise in reward hacking: saturation is HSV's, clipped counts values within 1/512 of 0 or 1,
    high frequency is the mean square of the discrete Laplacian of the brightness.
    """
    highest, lowest = images.amax(1), images.amin(1)
    saturation = torch.where(highest > 0, (highest - lowest) / highest.clamp_min(1e-6), 0.0)
    clipped = ((images < 1 / 512) | (images > 511 / 512)).float()
    brightness = images.mean(1)
    laplacian = (
        4 * brightness[:, 1:-1, 1:-1]
        - brightness[:, :-2, 1:-1]
        - brightness[:, 2:, 1:-1]
        - brightness[:, 1:-1, :-2]
        - brightness[:, 1:-1, 2:]
    )
    return {
        "saturation": saturation.flatten(1).mean(1),
        "clipped_share": clipped.flatten(1).mean(1),
        "high_frequency": laplacian.square().flatten(1).mean(1),
    }


def pairwise_distance(features: Float[Tensor, "n d"], group_size: int) -> Float[Tensor, " groups"]:
    """Average 1 − cosine over the pairs within each group of consecutive unit features.

    With one group a prompt this is the per-prompt diversity: 0 if all its pictures are alike.
    """
    groups = features.unflatten(0, (-1, group_size))
    similarity = groups @ groups.transpose(1, 2)
    off_diagonal = similarity.sum((1, 2)) - similarity.diagonal(dim1=1, dim2=2).sum(1)
    return 1 - off_diagonal / (group_size * (group_size - 1))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; one value alone has none."""

    mean: float
    sem: float | None

    @classmethod
    def of(cls, values: Float[Tensor, " n"]) -> Estimate:
        """Estimate the mean of independent values."""
        exact = values.double()
        sem = (exact.std() / math.sqrt(len(exact))).item() if len(exact) > 1 else None
        return cls(exact.mean().item(), sem)

    @classmethod
    def of_groups(cls, groups: Sequence[Estimate]) -> Estimate:
        """Estimate the mean of independent groups' means, each group with the same weight."""
        mean = sum(group.mean for group in groups) / len(groups)
        errors = [group.sem for group in groups if group.sem is not None]
        return cls(mean, math.hypot(*errors) / len(groups) if len(errors) == len(groups) else None)


@dataclass(frozen=True)
class WinRate:
    """The share of pairs won, ties counted half, with a 95 % Wilson interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, candidate: Float[Tensor, " n"], baseline: Float[Tensor, " n"]) -> WinRate:
        """Compare scores of the same prompts pair by pair."""
        wins = (candidate > baseline).double() + 0.5 * (candidate == baseline).double()
        n, rate, z = len(wins), wins.mean().item(), 1.959963984540054
        centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
        return cls(rate, centre - half, centre + half)
