"""Round trips between what networks predict, for any schedule point and any latents."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distar.diffusion.parametrization import Prediction, from_x0, to_x0, x0_to_eps, x0_to_score
from distar.diffusion.schedule import Schedule
from tests.analytic.gaussian import SCHEDULE

KINDS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")


def latents(seed: int) -> Tensor:
    return torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 999), st.integers(0, 2**31), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_output_and_x0_round_trip(timestep: int, seed: int, kind: Prediction) -> None:
    alpha, sigma = SCHEDULE.alpha_sigma(torch.tensor([timestep, timestep]))
    x0, eps = latents(seed), latents(seed + 1)
    x_t = alpha * x0 + sigma * eps
    output = from_x0(x0, x_t, alpha, sigma, kind)
    torch.testing.assert_close(to_x0(output, x_t, alpha, sigma, kind), x0, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 999), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_targets_are_what_their_names_say(timestep: int, seed: int) -> None:
    """With the true x0: eps is the noise, v is alpha eps − sigma x0, the score of q(x_t|x0) is −eps/sigma."""
    alpha, sigma = SCHEDULE.alpha_sigma(torch.tensor([timestep, timestep]))
    x0, eps = latents(seed), latents(seed + 1)
    x_t = SCHEDULE.add_noise(x0, eps, torch.tensor([timestep, timestep]))
    torch.testing.assert_close(x0_to_eps(x0, x_t, alpha, sigma), eps, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(from_x0(x0, x_t, alpha, sigma, "v_prediction"), alpha * eps - sigma * x0)
    torch.testing.assert_close(x0_to_score(x0, x_t, alpha, sigma), -eps / sigma, rtol=1e-8, atol=1e-8)


@given(st.lists(st.floats(1e-5, 0.5), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_schedule_preserves_variance_and_only_gets_noisier(betas: list[float]) -> None:
    schedule = Schedule.from_betas(torch.tensor(betas, dtype=torch.float64))
    alpha, sigma = schedule.alpha_sigma(torch.arange(len(betas)))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (alpha[1:] < alpha[:-1]).all()
