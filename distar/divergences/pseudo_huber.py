"""The pseudo-Huber score divergence d(y) = sqrt(‖y‖² + c²) − c: the one of DI* and SIM."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from distar.divergences.comparison import Comparison, ScoreDivergence, per_sample_dot


class PseudoHuber(ScoreDivergence):
    """Score-based divergence with d'(y) = y / sqrt(‖y‖² + c²), the norm over one whole sample.

    `c` is given in `space`; the paper does not publish its value. With `path_term`, w(t) d(y) is added,
    which completes the gradient by the dependence of the sampling path on θ.
    """

    kind: Literal["pseudo_huber"]
    c: float = Field(gt=0)
    path_term: bool

    @property
    def differentiates_scores(self) -> bool:
        """True: without the scores' own gradients the theorem does not hold."""
        return True

    def loss(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute −w d'(y)ᵀ v (+ w d(y)) for each sample (arXiv 2410.20898, theorem 3.2)."""
        y = comparison.score_difference(self.space)
        v = comparison.denoising_residual(self.space)
        root = torch.sqrt(per_sample_dot(y, y) + self.c**2)
        loss = -per_sample_dot(y, v) / root
        return self.weight(comparison) * (loss + root - self.c if self.path_term else loss)
