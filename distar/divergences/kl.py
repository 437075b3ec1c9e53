"""The integral KL divergence of Diff-Instruct and DI++: scores are held constant."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from distar.divergences.comparison import Comparison, ScoreDivergence, mean_distance_weight, per_sample_dot
from distar.divergences.params import KL


class KLDivergence(ScoreDivergence):
    """∫ w(t) KL(p_θ,t ‖ p_ref,t) dt (Diff-Instruct, arXiv 2305.18455, theorem 3.1)."""

    def __init__(self, params: KL) -> None:
        super().__init__(params)
        self.normalize = params.normalize

    @property
    def differentiates_scores(self) -> bool:
        """False: the integral KL's gradient takes scores as constants."""
        return False

    def weight(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute each sample's weight, with the normaliser."""
        weight = super().weight(comparison)
        return weight * mean_distance_weight(comparison) if self.normalize else weight

    def loss(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute w sg[s_ψ − s̃_ref]ᵀ x_t for each sample; its gradient is the divergence's, its value means nothing."""
        y = comparison.score_difference(self.space).detach()
        return self.weight(comparison) * per_sample_dot(y, comparison.sample(self.space))
