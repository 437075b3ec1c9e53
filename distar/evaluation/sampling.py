"""Draw the evaluation's pictures: the same prompts and noise for every system that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from distar.diffusion.families.family import Family
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.prompt import EncodedPrompts, PromptEmbedding
from distar.diffusion.reference import Reference, sample_ddim
from distar.progress import track
from distar.seeding import generator as draws

Draw = Callable[[Tensor, PromptEmbedding], Tensor]
"""A system under evaluation: (noise, prompts) -> latents x0."""


def one_step(generator: OneStepGenerator) -> Draw:
    """Draw with a one-step generator."""
    return generator.eval()


def many_steps(reference: Reference, num_steps: int, guidance_scale: float) -> Draw:
    """Draw with the guided reference."""
    return lambda noise, prompt: sample_ddim(reference, noise, prompt, num_steps, guidance_scale)


@dataclass(frozen=True)
class Requests:
    """Pictures to draw: each has a prompt, the row of its embedding in `encoded`, and its noise."""

    prompts: tuple[str, ...]
    encoded: EncodedPrompts
    rows: Int[Tensor, " n"]
    noise: Float[Tensor, "n c h w"]

    @classmethod
    def make(
        cls,
        prompts: Sequence[str],
        encoded: EncodedPrompts,
        images_per_prompt: int,
        latent_shape: tuple[int, int, int],
        seed: int,
        purpose: str,
    ) -> Requests:
        """Ask for `images_per_prompt` pictures of each prompt, those of one prompt side by side.

        `prompts` are the first of those that are `encoded`.
        """
        rows = torch.arange(len(prompts)).repeat_interleave(images_per_prompt)
        repeated = tuple(prompt for prompt in prompts for _ in range(images_per_prompt))
        return cls(repeated, encoded, rows, torch.randn(len(rows), *latent_shape, generator=draws(seed, purpose)))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, part: slice) -> Requests:
        return Requests(self.prompts[part], self.encoded, self.rows[part], self.noise[part])


@torch.no_grad()
def draw_batch(draw: Draw, family: Family, requests: Requests) -> UInt8[Tensor, "b 3 height width"]:
    """Draw the requested pictures at once; 8-bit, as they would be saved."""
    embedding = requests.encoded[requests.rows].to(family.device, torch.float32)
    images = family.decode(draw(requests.noise.to(family.device), embedding))
    return (images * 255).round().to(torch.uint8).cpu()


def draw_images(
    name: str, draw: Draw, family: Family, requests: Requests, batch_size: int
) -> UInt8[Tensor, "n 3 height width"]:
    """Draw the requested pictures in batches."""
    pictures = []
    with track(f"draw with {name}", len(requests)) as progress:
        for start in range(0, len(requests), batch_size):
            pictures.append(draw_batch(draw, family, requests[start : start + batch_size]))
            progress.advance(len(pictures[-1]))
    return torch.cat(pictures)
