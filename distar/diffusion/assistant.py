"""The assistant: a diffusion model of what the generator draws now (elsewhere "fake score", "TA")."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.denoiser import Denoiser
from distar.diffusion.parametrization import from_x0
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
        """Compute ‖output(x_t, t, c) − target‖² for each sample, averaged over its dimensions.

        Output and target are what the network predicts: eps for the paper's models, v or x0 for others.
        The average (not the sum of the generator's loss) leaves the minimiser where it is and keeps the
        gradient clip independent of the latents' size. `forward` is the module to call in place of this
        one: itself, as wrapped for distribution.
        """
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        x_t = alpha * x0 + sigma * eps
        estimate = (forward or self)(x_t, timestep, prompt)
        output = from_x0(estimate, x_t, alpha, sigma, self.prediction)
        target = from_x0(x0, x_t, alpha, sigma, self.prediction)
        return torch.square(output - target).flatten(1).mean(1)
