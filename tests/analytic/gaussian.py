"""Gaussian data, whose scores are known in closed form, as real denoisers of the library."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from distar.diffusion.assistant import Assistant
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference
from distar.diffusion.schedule import Schedule

SCHEDULE = Schedule.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
NULL_PROMPT = PromptEmbedding({"hidden_states": torch.zeros(1, 1, 1, dtype=torch.float64)})


class GaussianNetwork(nn.Module):
    """The exact x0-prediction of data N(mean + prompt, scale²): what a perfectly trained network would return."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.detach().clone())
        self.scale = nn.Parameter(scale.detach().clone())

    def forward(self, x_t: Tensor, timestep: Tensor, prompt: PromptEmbedding) -> Tensor:
        mean = self.mean + prompt.tensors["hidden_states"][..., None]
        return posterior_mean(x_t, timestep, mean, self.scale)


def posterior_mean(x_t: Tensor, timestep: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    alpha, sigma = SCHEDULE.alpha_sigma(timestep)
    gain = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)
    return mean + gain * (x_t - alpha * mean)


def gaussian_score(x_t: Tensor, timestep: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    alpha, sigma = SCHEDULE.alpha_sigma(timestep)
    return -(x_t - alpha * mean) / (alpha**2 * scale**2 + sigma**2)


def _call(network: nn.Module, x_t: Tensor, timestep: Tensor, prompt: PromptEmbedding) -> Tensor:
    return network(x_t, timestep, prompt)


def assistant_of(mean: Tensor, scale: Tensor) -> Assistant:
    return Assistant(GaussianNetwork(mean, scale), _call, SCHEDULE, "sample", NULL_PROMPT)


def reference_of(mean: Tensor, scale: Tensor) -> Reference:
    return Reference(GaussianNetwork(mean, scale), _call, SCHEDULE, "sample", NULL_PROMPT)


def quadrature(order: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes z and eps of shape (n, 1, 1, 1) and weights of shape (n,): E over two independent standard normals."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    z, eps = (torch.from_numpy(g.ravel()).view(-1, 1, 1, 1) for g in np.meshgrid(nodes, nodes))
    return z, eps, torch.from_numpy(np.outer(weights, weights).ravel())
