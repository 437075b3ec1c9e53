"""The one-step generator g_θ(z, c): one call of a denoising network at a fixed timestep."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distar.diffusion.denoiser import Denoiser
from distar.diffusion.params import NoiseScale
from distar.diffusion.prompt import PromptEmbedding


class OneStepGenerator(nn.Module):
    """Map noise z ~ N(0, I) and a prompt to x0 = (x_t − sigma_t eps_θ(x_t, t, c)) / alpha_t.

    `timestep` is the network's integer t; `noise_scale` says whether x_t is sigma_t z or z itself.
    """

    def __init__(self, denoiser: Denoiser, timestep: int, noise_scale: NoiseScale) -> None:
        super().__init__()
        if not 0 <= timestep < denoiser.schedule.num_timesteps:
            raise ValueError(
                f"the generator's timestep was {timestep}; the schedule has 0 to {denoiser.schedule.num_timesteps - 1}"
            )
        self.denoiser = denoiser
        self.timestep = timestep
        self.noise_scale: NoiseScale = noise_scale

    def forward(self, noise: Float[Tensor, "b c h w"], prompt: PromptEmbedding) -> Float[Tensor, "b c h w"]:
        """Draw latents x0 in one step."""
        timestep = torch.full((len(noise),), self.timestep, device=noise.device)
        if self.noise_scale == "sigma":
            _, sigma = self.denoiser.schedule.alpha_sigma(timestep)
            noise = sigma * noise
        return self.denoiser(noise, timestep, prompt)
