"""Members of the family that must coincide, and the splitting that must change nothing; all in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from distar.diffusion.denoiser import Denoiser
from distar.diffusion.prompt import PromptEmbedding
from distar.divergences.comparison import Comparison, ScoreDivergence
from distar.divergences.params import KL, L2, PseudoHuber, Space, WeightingParams
from distar.training.step import Batch, Objective, generator_loss
from tests.analytic.gaussian import SCHEDULE, assistant_of, reference_of

FLAT = WeightingParams(alpha_power=0.0, sigma_power=0.0)
B, SHAPE = 6, (3, 2, 2)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch() -> Batch:
    draws = rng(0)
    return Batch(
        prompts=("",) * B,
        embedding=PromptEmbedding({"hidden_states": torch.randn(B, 1, 1, generator=draws, dtype=torch.float64)}),
        noise=torch.randn(B, *SHAPE, generator=draws, dtype=torch.float64),
        eps=torch.randn(B, *SHAPE, generator=draws, dtype=torch.float64),
        timestep=torch.randint(20, 980, (B,), generator=draws),
    )


@pytest.fixture
def x0(batch: Batch) -> Tensor:
    return 0.3 + 0.8 * batch.noise


@pytest.fixture
def assistant():
    draws = rng(1)
    scale = 0.5 + torch.rand(*SHAPE, generator=draws, dtype=torch.float64)
    return assistant_of(torch.randn(*SHAPE, generator=draws, dtype=torch.float64), scale)


@pytest.fixture
def reference():
    draws = rng(2)
    scale = 0.5 + torch.rand(*SHAPE, generator=draws, dtype=torch.float64)
    return reference_of(torch.randn(*SHAPE, generator=draws, dtype=torch.float64), scale)


def reward(x0: Tensor, prompts: Sequence[str]) -> Tensor:
    return -(x0 - 1).square().flatten(1).sum(1)


def divergences(space: Space) -> list[ScoreDivergence]:
    return [
        KL(kind="kl", space=space, weighting=FLAT, normalize=False).build(),
        KL(kind="kl", space=space, weighting=FLAT, normalize=True).build(),
        L2(kind="l2", space=space, weighting=FLAT, path_term=True, normalize=False).build(),
        PseudoHuber(kind="pseudo_huber", space=space, c=0.03, weighting=FLAT, path_term=False).build(),
        PseudoHuber(kind="pseudo_huber", space=space, c=0.03, weighting=FLAT, path_term=True).build(),
    ]


def plain_gradient(x0: Tensor, assistant: Denoiser, reference: Denoiser, batch: Batch, objective: Objective) -> Tensor:
    """The same loss with all graphs held at once, by plain autograd."""
    x0 = x0.detach().requires_grad_()
    alpha, sigma = SCHEDULE.alpha_sigma(batch.timestep)
    x_t = alpha * x0 + sigma * batch.eps
    if not objective.divergence.differentiates_scores:
        x_t = x_t.detach()
    inside = objective.guidance_scale if objective.guidance == "in" else 1.0
    reference_x0 = reference.predict_x0(x_t, batch.timestep, batch.embedding, inside)
    comparison = Comparison(
        x0, batch.eps, alpha, sigma, assistant.predict_x0(x_t, batch.timestep, batch.embedding), reference_x0
    )
    loss = objective.divergence.loss(comparison).sum()
    if objective.guidance == "out":
        conditional, unconditional = reference.predict_x0_pair(x_t, batch.timestep, batch.embedding)
        direction = (objective.guidance_scale - 1) * (conditional - unconditional)
        loss = loss - objective.divergence.guidance_reward(comparison, direction).sum()
    if objective.reward is not None:
        loss = loss - objective.reward_scale * objective.reward(x0, batch.prompts).sum()
    return torch.autograd.grad(loss, x0)[0]


def loss_gradient(x0, assistant, reference, batch, objective) -> torch.Tensor:
    """Let the training's own code compute it: scores of two samples at once, rewards of one."""
    gradient, _ = generator_loss(x0, assistant, reference, batch, objective, 2, 1)
    return gradient


@pytest.mark.parametrize("space", ["score", "x0"])
@pytest.mark.parametrize("guidance", ["in", "out"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("which", range(5))
def test_splitting_equals_autograd(which, scale, guidance, space, x0, assistant, reference, batch) -> None:
    objective = Objective(divergences(space)[which], reward, 0.7, scale, guidance)
    split = loss_gradient(x0, assistant, reference, batch, objective)
    plain = plain_gradient(x0, assistant, reference, batch, objective)
    torch.testing.assert_close(split, plain, rtol=1e-8, atol=1e-8)


def test_l2_is_sid_with_alpha_1(x0, assistant, reference, batch) -> None:
    """(2α²/σ⁴)(f_ref − f_ψ)ᵀ(f_ψ − x0), SiD's loss with alpha = 1 (arXiv 2404.04057, eq. 23)."""
    divergence = L2(kind="l2", space="score", weighting=FLAT, path_term=False, normalize=False).build()
    alpha, sigma = SCHEDULE.alpha_sigma(batch.timestep)
    x_t = alpha * x0 + sigma * batch.eps
    f_assistant = assistant.predict_x0(x_t, batch.timestep, batch.embedding)
    f_reference = reference.predict_x0(x_t, batch.timestep, batch.embedding)
    sid = (2 * alpha**2 / sigma**4 * (f_reference - f_assistant) * (f_assistant - x0)).flatten(1).sum(1)
    ours = divergence.loss(Comparison(x0, batch.eps, alpha, sigma, f_assistant, f_reference))
    torch.testing.assert_close(ours, sid, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("which", range(5))
def test_no_reward_is_the_method_without_reward(which, x0, assistant, reference, batch) -> None:
    """DI* with alpha_rew = 0 is SIM, DI++ with alpha_rew = 0 is Diff-Instruct: to the last bit."""
    divergence = divergences("x0")[which]
    silent = loss_gradient(x0, assistant, reference, batch, Objective(divergence, reward, 0.0, 2.5, "in"))
    without = loss_gradient(x0, assistant, reference, batch, Objective(divergence, None, 0.0, 2.5, "in"))
    assert torch.equal(silent, without)


@pytest.mark.parametrize("space", ["score", "x0"])
def test_kl_inside_equals_kl_outside(space, x0, assistant, reference, batch) -> None:
    """With alpha_cfg = κ − 1 guidance in the score and guidance as a reward are one and the same for KL."""
    kl = KL(kind="kl", space=space, weighting=FLAT, normalize=False).build()
    inside = loss_gradient(x0, assistant, reference, batch, Objective(kl, None, 0.0, 3.0, "in"))
    outside = loss_gradient(x0, assistant, reference, batch, Objective(kl, None, 0.0, 3.0, "out"))
    torch.testing.assert_close(inside, outside, rtol=1e-10, atol=1e-10)


def test_pseudo_huber_differs_inside_and_outside(x0, assistant, reference, batch) -> None:
    """What holds for KL does not hold for DI*: IN and OUT are two methods."""
    huber = PseudoHuber(kind="pseudo_huber", space="x0", c=0.03, weighting=FLAT, path_term=False).build()
    inside = loss_gradient(x0, assistant, reference, batch, Objective(huber, None, 0.0, 3.0, "in"))
    outside = loss_gradient(x0, assistant, reference, batch, Objective(huber, None, 0.0, 3.0, "out"))
    assert (inside - outside).norm() > 0.1 * inside.norm()
