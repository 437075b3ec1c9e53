"""The noise schedule: x_t = alpha_t x0 + sigma_t eps with alpha_t² + sigma_t² = 1 (variance preserving)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A discrete variance-preserving schedule.

    `alphas_cumprod` holds ᾱ_t for t = 0 … T−1; its dtype and device are those of what `alpha_sigma`
    returns.
    """

    alphas_cumprod: Float[Tensor, " timesteps"]

    @classmethod
    def from_betas(cls, betas: Float[Tensor, " timesteps"]) -> Schedule:
        """Build the schedule from the variances added at each step, accumulated in float64."""
        return cls(torch.cumprod(1 - betas.double(), dim=0).to(betas.dtype))

    @property
    def num_timesteps(self) -> int:
        """T, the number of discrete times."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Schedule:
        """Move the schedule; returns a new one."""
        return Schedule(self.alphas_cumprod.to(device=device, dtype=dtype))

    def alpha_sigma(self, timestep: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
        """Look up (alpha_t, sigma_t), shaped to multiply latents of shape (b, c, h, w)."""
        alpha_squared = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def add_noise(
        self, x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], timestep: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Diffuse data to time t: alpha_t x0 + sigma_t eps."""
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha * x0 + sigma * eps
