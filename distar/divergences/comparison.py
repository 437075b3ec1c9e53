"""What every divergence sees: one batch of x0-estimates of the assistant and of the reference at the same x_t."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from distar.divergences.params import ScoreDivergenceParams, Space, WeightingParams


@dataclass(frozen=True)
class Comparison:
    """Assistant against reference on noised generator samples.

    `x0` is the generator's output and carries its gradient, `x_t = alpha x0 + sigma eps`;
    `assistant_x0` = f_ψ(x_t|c) and `reference_x0` = f̃_ref(x_t|c) depend on it through x_t.
    """

    x0: Float[Tensor, "b c h w"]
    eps: Float[Tensor, "b c h w"]
    alpha: Float[Tensor, "b 1 1 1"]
    sigma: Float[Tensor, "b 1 1 1"]
    assistant_x0: Float[Tensor, "b c h w"]
    reference_x0: Float[Tensor, "b c h w"]

    def score_difference(self, space: Space) -> Float[Tensor, "b c h w"]:
        """Return y = s_ψ(x_t) − s̃_ref(x_t), or its x0-space counterpart."""
        return self.scale(space) * (self.assistant_x0 - self.reference_x0)

    def denoising_residual(self, space: Space) -> Float[Tensor, "b c h w"]:
        """Return v = s_ψ(x_t) − ∇ log q(x_t|x0), or its x0-space counterpart f_ψ − x0."""
        return self.scale(space) * (self.assistant_x0 - self.x0)

    def sample(self, space: Space) -> Float[Tensor, "b c h w"]:
        """Return the variable that a detached score pulls at: x_t, or x0 in x0-space."""
        return self.alpha * self.x0 + self.sigma * self.eps if space == "score" else self.x0

    def scale(self, space: Space) -> Float[Tensor, "b 1 1 1"] | float:
        """Return the factor between a difference of x0-estimates and one of scores: alpha/sigma², or 1 in x0-space."""
        return self.alpha / self.sigma**2 if space == "score" else 1.0


def per_sample_dot(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Sum a·b over each sample's dimensions."""
    return (a * b).flatten(1).sum(1)


def time_weight(
    weighting: WeightingParams, alpha: Float[Tensor, "b 1 1 1"], sigma: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, " b"]:
    """Compute w(t) for each sample."""
    return (alpha**weighting.alpha_power * sigma**weighting.sigma_power).flatten()


class ScoreDivergence(abc.ABC):
    """What all divergences share: where scores are compared, and how times are weighed."""

    def __init__(self, params: ScoreDivergenceParams) -> None:
        self.space: Space = params.space
        self.weighting = params.weighting

    @property
    @abc.abstractmethod
    def differentiates_scores(self) -> bool:
        """Whether gradients flow back through assistant and reference into x_t."""

    @abc.abstractmethod
    def loss(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute the loss of each sample, summed over its dimensions."""

    def weight(self, comparison: Comparison) -> Float[Tensor, " b"]:
        """Compute each sample's weight, a constant."""
        return time_weight(self.weighting, comparison.alpha, comparison.sigma)

    def guidance_reward(self, comparison: Comparison, direction: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Compute DI*-OUT's implicit reward w sg[direction]ᵀ x_t, the direction being given as an x0-difference."""
        return self.weight(comparison) * per_sample_dot(
            comparison.scale(self.space) * direction.detach(), comparison.sample(self.space)
        )


def mean_distance_weight(comparison: Comparison) -> Float[Tensor, " b"]:
    """Return 1 / mean |x0 − f̃_ref| for each sample: DMD's normaliser (arXiv 2311.18828, eq. 8), a constant."""
    distance = (comparison.x0 - comparison.reference_x0).detach().abs().flatten(1).mean(1)
    return 1 / distance.clamp_min(1e-6)
