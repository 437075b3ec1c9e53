"""The theorem of Diff-Instruct*: the tractable loss has the gradient of the divergence that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distar.divergences.comparison import ScoreDivergence, time_weight
from distar.divergences.l2 import L2Divergence
from distar.divergences.params import L2, PseudoHuber, WeightingParams
from distar.divergences.pseudo_huber import PseudoHuberDivergence
from distar.training.step import Batch, Objective, generator_loss
from tests.analytic.gaussian import NULL_PROMPT as PROMPT
from tests.analytic.gaussian import (
    SCHEDULE,
    assistant_of,
    gaussian_score,
    quadrature,
    reference_of,
)

WEIGHTING = WeightingParams(alpha_power=1.0, sigma_power=2.0)
MEAN, SCALE = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
REFERENCE_MEAN, REFERENCE_SCALE = torch.tensor(-0.4, dtype=torch.float64), torch.tensor(1.1, dtype=torch.float64)
TIMESTEPS = (120, 480, 860)
C = 1.0  # wide enough for the quadrature to be exact to 1e-6


def divergence_of(kind: str, path_term: bool) -> ScoreDivergence:
    if kind == "l2":
        return L2(kind="l2", space="score", weighting=WEIGHTING, path_term=path_term, normalize=False).build()
    return PseudoHuber(kind="pseudo_huber", space="score", c=C, weighting=WEIGHTING, path_term=path_term).build()


def distance(y: Tensor, kind: str) -> Tensor:
    return y.square() if kind == "l2" else (y.square() + C**2).sqrt() - C


def tractable_gradient(kind: str, path_term: bool, timestep: int) -> Tensor:
    """(d/d mean, d/d scale) of the loss that training minimises, through the library's own code."""
    z, eps, weights = quadrature()
    objective = Objective(divergence_of(kind, path_term), None, 0.0, 1.0, "in")
    t = torch.full((len(z),), timestep)
    batch = Batch(("",) * len(z), PROMPT.expand(len(z)), z, eps, t)
    assistant, reference = assistant_of(MEAN, SCALE), reference_of(REFERENCE_MEAN, REFERENCE_SCALE)
    x0_gradient, _ = generator_loss(MEAN + SCALE * z, assistant, reference, batch, objective, len(z), len(z))
    by_x0 = weights * x0_gradient.flatten()
    return torch.stack([by_x0.sum(), (by_x0 * z.flatten()).sum()])


def true_gradient(kind: str, path_term: bool, timestep: int) -> Tensor:
    """(d/d mean, d/d scale) of w E[d(s_θ(x_t) − s_ref(x_t))], the sampling path held constant or not."""
    z, eps, weights = quadrature()
    t = torch.full((len(z),), timestep)
    alpha, sigma = SCHEDULE.alpha_sigma(t)
    mean, scale = MEAN.clone().requires_grad_(), SCALE.clone().requires_grad_()
    x_t = alpha * (mean + scale * z) + sigma * eps
    if not path_term:
        x_t = x_t.detach()
    y = gaussian_score(x_t, t, mean, scale) - gaussian_score(x_t, t, REFERENCE_MEAN, REFERENCE_SCALE)
    total = (weights * time_weight(WEIGHTING, alpha, sigma) * distance(y, kind).flatten()).sum()
    return torch.stack(torch.autograd.grad(total, (mean, scale)))


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("path_term", [False, True])
@pytest.mark.parametrize("kind", ["l2", "pseudo_huber"])
def test_loss_has_the_divergences_gradient(kind: str, path_term: bool, timestep: int) -> None:
    torch.testing.assert_close(
        tractable_gradient(kind, path_term, timestep), true_gradient(kind, path_term, timestep), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["l2", "pseudo_huber"])
def test_detached_scores_fail_the_theorem(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake to be found: scores held constant give another gradient, so the test above can fail."""
    monkeypatch.setattr(L2Divergence, "differentiates_scores", property(lambda self: False))
    monkeypatch.setattr(PseudoHuberDivergence, "differentiates_scores", property(lambda self: False))
    wrong, right = tractable_gradient(kind, False, 480), true_gradient(kind, False, 480)
    assert (wrong - right).norm() > 0.1 * right.norm()
