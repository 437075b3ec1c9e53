"""The assistant: a diffusion model of what the generator draws now (elsewhere "fake score", "TA")."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.denoiser import Denoiser
from distar.diffusion.parametrization import x0_to_eps
from distar.diffusion.prompt import PromptEmbedding


class Assistant(Denoiser):
    """A trainable denoiser, fitted online to the generator's distribution."""

    def denoising_loss(
        self,
        x0: Float[Tensor, "b c h w"],
        eps: Float[Tensor, "b c h w"],
        timestep: Int[Tensor, " b"],
        prompt: PromptEmbedding,
        forward: nn.Module | None = None,
    ) -> Float[Tensor, " b"]:
        """Compute ‖eps_ψ(x_t, t, c) − eps‖² for each sample, averaged over its dimensions.

        The average (not the sum of the generator's loss) leaves the minimiser where it is and keeps the
        gradient clip independent of the latents' size. `forward` is the module to call in place of this
        one: itself, as wrapped for distribution.
        """
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        x_t = alpha * x0 + sigma * eps
        estimate = (forward or self)(x_t, timestep, prompt)
        predicted = x0_to_eps(estimate, x_t, alpha, sigma)
        return torch.square(predicted - eps).flatten(1).mean(1)
