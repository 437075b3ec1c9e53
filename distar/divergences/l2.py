"""The squared-L2 score divergence d(y) = ‖y‖²: SiD's (with alpha = 1), up to weighting."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distar.divergences.comparison import Comparison, ScoreDivergence, mean_distance_weight, per_sample_dot
from distar.divergences.params import L2


class L2Divergence(ScoreDivergence):
    """Score-based divergence with d'(y) = 2 y (SiD, arXiv 2404.04057, eq. 23 with alpha = 1)."""

    def __init__(self, params: L2) -> None:
        super().__init__(params)
        self.path_term = params.path_term
        self.normalize = params.normalize

    @property
    def differentiates_scores(self) -> bool:
        """True: without the scores' own gradients the theorem does not hold."""
        return True

    def weight(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute each sample's weight, with the normaliser."""
        weight = super().weight(comparison)
        return weight * mean_distance_weight(comparison) if self.normalize else weight

    def loss(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute −w 2 yᵀ v (+ w ‖y‖²) for each sample."""
        y = comparison.score_difference(self.space)
        v = comparison.denoising_residual(self.space)
        loss = -2 * per_sample_dot(y, v)
        return self.weight(comparison) * (loss + per_sample_dot(y, y) if self.path_term else loss)
