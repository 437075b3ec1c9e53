"""The reference: the frozen diffusion model that the generator is kept close to."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from distar.diffusion.denoiser import Denoiser
from distar.diffusion.parametrization import x0_to_eps
from distar.diffusion.prompt import PromptEmbedding


class Reference(Denoiser):
    """A denoiser whose weights never change; gradients flow through it into x_t."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Reference:
        """Stay in evaluation mode whatever is asked."""
        return super().train(False)


@torch.no_grad()
def sample_ddim(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    prompt: PromptEmbedding,
    num_steps: int,
    guidance_scale: float,
) -> Float[Tensor, "b c h w"]:
    """Draw x0 in many steps with deterministic DDIM (arXiv 2010.02502, eq. 12, eta = 0).

    Timesteps are spaced as "trailing" in diffusers (arXiv 2305.08891, table 2): the first is the last
    one of the schedule, where the noise was.
    """
    total = denoiser.schedule.num_timesteps
    timesteps = [round(total * (1 - i / num_steps)) - 1 for i in range(num_steps)]
    x_t = noise
    for current, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        timestep = torch.full((len(noise),), current, device=noise.device)
        x0 = denoiser.predict_x0(x_t, timestep, prompt, guidance_scale)
        if following is None:
            return x0
        eps = x0_to_eps(x0, x_t, *denoiser.schedule.alpha_sigma(timestep))
        x_t = denoiser.schedule.add_noise(x0, eps, torch.full_like(timestep, following))
    raise ValueError(f"num_steps was {num_steps}; sampling takes at least one step")
