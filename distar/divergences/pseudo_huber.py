"""The pseudo-Huber score divergence d(y) = sqrt(‖y‖² + c²) − c: the one of DI* and SIM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from distar.divergences.comparison import Comparison, ScoreDivergence, per_sample_dot
from distar.divergences.params import PseudoHuber


class PseudoHuberDivergence(ScoreDivergence):
    """Score-based divergence with d'(y) = y / sqrt(‖y‖² + c²), the norm over one whole sample."""

    def __init__(self, params: PseudoHuber) -> None:
        super().__init__(params)
        self.c = params.c
        self.path_term = params.path_term

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
