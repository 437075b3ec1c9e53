"""The plain way to do the same, to compare with: one autograd graph through everything.

Prompts are encoded at every call, the reference is called twice for its guidance, and the graphs of generator,
assistant, reference, decoder and reward are held at once. The gradient is that of `distar.training.step`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from distar.bench.subject import Subject
from distar.diffusion.assistant import Assistant
from distar.diffusion.families.family import TextEncoder
from distar.diffusion.reference import Reference
from distar.divergences.comparison import Comparison
from distar.training.step import Batch, Objective, frozen


def plain_iteration(subject: Subject, reference: Reference, batch: Batch) -> None:
    """Update the assistant, then the generator."""
    fresh = _encoded(subject.text_encoder, batch)
    with torch.no_grad():
        x0 = subject.generator.module(fresh.noise, fresh.embedding)
    losses = subject.assistant.module.denoising_loss(x0, fresh.eps, fresh.timestep, fresh.embedding)
    losses.mean().backward()
    subject.assistant.update()

    fresh = _encoded(subject.text_encoder, batch)
    x0 = subject.generator.module(fresh.noise, fresh.embedding)
    with frozen(subject.assistant.module):
        plain_loss(x0, subject.assistant.module, reference, fresh, subject.objective).mean().backward()
    subject.generator.update()


def plain_loss(
    x0: Float[Tensor, "b c h w"], assistant: Assistant, reference: Reference, batch: Batch, objective: Objective
) -> Float[Tensor, " b"]:
    """Compute each sample's loss L(θ) with guidance inside the reference's score (arXiv 2410.20898, eq. 3.5)."""
    alpha, sigma = assistant.schedule.alpha_sigma(batch.timestep)
    x_t = alpha * x0 + sigma * batch.eps
    null = reference.null_prompt.expand(len(batch))
    conditional = reference(x_t, batch.timestep, batch.embedding)
    unconditional = reference(x_t, batch.timestep, null)
    guided = unconditional + objective.guidance_scale * (conditional - unconditional)
    estimate = assistant(x_t, batch.timestep, batch.embedding)
    comparison = Comparison(x0, batch.eps, alpha, sigma, assistant_x0=estimate, reference_x0=guided)
    loss = objective.divergence.loss(comparison)
    if objective.reward is not None:
        loss = loss - objective.reward_scale * objective.reward(x0, batch.prompts)
    return loss


def _encoded(text_encoder: TextEncoder, batch: Batch) -> Batch:
    return replace(batch, embedding=text_encoder.encode(batch.prompts))
