"""One signature for every denoising network: `predict_x0(x_t, timestep, prompt, guidance_scale)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.parametrization import Prediction, to_x0, x0_to_score
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.schedule import Schedule

NetworkCall = Callable[[nn.Module, Tensor, Tensor, PromptEmbedding], Tensor]
"""How a family calls its network: (network, x_t, timestep, prompt) -> raw output of x_t's shape."""


class Denoiser(nn.Module):
    """A denoising network with its schedule and the meaning of its output.

    Args:
        network: the family's own network (a diffusers model).
        call: how the family calls it.
        schedule: the diffusion process that it denoises.
        prediction: what its output means.
        null_prompt: the embedding of "no prompt", a batch of one.
    """

    def __init__(
        self,
        network: nn.Module,
        call: NetworkCall,
        schedule: Schedule,
        prediction: Prediction,
        null_prompt: PromptEmbedding,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.prediction: Prediction = prediction
        self.null_prompt = null_prompt
        self._call = call

    def forward(
        self, x_t: Float[Tensor, "b c h w"], timestep: Int[Tensor, " b"], prompt: PromptEmbedding
    ) -> Float[Tensor, "b c h w"]:
        """Estimate x0 from x_t, without guidance."""
        output = self._call(self.network, x_t, timestep, prompt)
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        return to_x0(output, x_t, alpha, sigma, self.prediction)

    def predict_x0(
        self,
        x_t: Float[Tensor, "b c h w"],
        timestep: Int[Tensor, " b"],
        prompt: PromptEmbedding,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "b c h w"]:
        """Estimate x0 from x_t; guided if `guidance_scale` is not 1: f_∅ + κ (f_c − f_∅)."""
        if guidance_scale == 1.0:
            return self(x_t, timestep, prompt)
        conditional, unconditional = self.predict_x0_pair(x_t, timestep, prompt)
        return unconditional + guidance_scale * (conditional - unconditional)

    def predict_x0_pair(
        self, x_t: Float[Tensor, "b c h w"], timestep: Int[Tensor, " b"], prompt: PromptEmbedding
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Estimate x0 with and without the prompt, in one forward pass of twice the batch."""
        both = PromptEmbedding.cat([prompt, self.null_prompt.expand(len(x_t))])
        conditional, unconditional = self(torch.cat([x_t, x_t]), torch.cat([timestep, timestep]), both).chunk(2)
        return conditional, unconditional

    def score(
        self,
        x_t: Float[Tensor, "b c h w"],
        timestep: Int[Tensor, " b"],
        prompt: PromptEmbedding,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "b c h w"]:
        """Estimate ∇ log p_t(x_t | prompt)."""
        x0 = self.predict_x0(x_t, timestep, prompt, guidance_scale)
        return x0_to_score(x0, x_t, *self.schedule.alpha_sigma(timestep))
