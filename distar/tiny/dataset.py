"""Pictures of the tiny world with what is true of them, rendered once and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from distar.progress import track
from distar.seeding import derive_seed
from distar.tiny.renderer import RESOLUTION, render
from distar.tiny.world import BACKGROUNDS, COLOURS, SHAPES, Scene, Subject, sample_scene


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes.

    `pixels` is uint8 of shape (n, 3, 64, 64); `labels` int64 of shape (n, 3): the indices of shape,
    colour and background.
    """

    scenes: tuple[Scene, ...]
    pixels: Tensor
    labels: Tensor

    def images(self, index: Tensor) -> Tensor:
        """Return the pictures of one batch as float in [0, 1], shape (b, 3, 64, 64)."""
        return self.pixels[index].float() / 255

    @cached_property
    def by_label(self) -> dict[tuple[int, ...], list[int]]:
        """The pictures of each combination of labels."""
        found: dict[tuple[int, ...], list[int]] = {}
        for i, label in enumerate(self.labels.tolist()):
            found.setdefault(tuple(label), []).append(i)
        return found

    def __len__(self) -> int:
        return len(self.scenes)


def labels_of(subject: Subject) -> tuple[int, int, int]:
    """Index the three attributes of a subject."""
    return (
        SHAPES.index(subject.shape),
        tuple(COLOURS).index(subject.colour),
        tuple(BACKGROUNDS).index(subject.background),
    )


def render_pictures(subjects: tuple[Subject, ...], pictures_per_subject: int, seed: int) -> Pictures:
    """Render `pictures_per_subject` scenes of each subject."""
    rng = np.random.default_rng(derive_seed(seed, "pictures"))
    scenes = tuple(sample_scene(subject, rng) for subject in subjects for _ in range(pictures_per_subject))
    pixels = torch.empty(len(scenes), 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
    with track("render pictures", len(scenes)) as progress:
        for i, scene in enumerate(scenes):
            pixels[i] = torch.from_numpy(render(scene)).permute(2, 0, 1)
            progress.advance()
    labels = torch.tensor([labels_of(scene.subject) for scene in scenes])
    return Pictures(scenes, pixels, labels)


@dataclass(frozen=True)
class Imperfect:
    """Pictures as a generator might draw them: decoded latents, some noisy, some blends of two scenes.

    `pixels` is uint8 of shape (n, 3, 64, 64); `corruption` float of shape (n,), 0 for a clean round trip.
    """

    pixels: Tensor
    corruption: Tensor


@torch.no_grad()
def draw_imperfect(pictures: Pictures, vae: AutoencoderKL, rng: torch.Generator) -> Imperfect:
    """Encode, spoil and decode every picture.

    A third each: left alone; latents noisy by up to 0.8 standard deviations; latents blended with up to
    half of another scene of the same subject, as a one-step generator blends what it can't decide between.
    """
    pixels = torch.empty_like(pictures.pixels)
    kind = torch.randint(3, (len(pictures),), generator=rng)
    strength = torch.rand(len(pictures), generator=rng)
    noise_level = torch.where(kind == 1, 0.8 * strength, 0.0)
    blend = torch.where(kind == 2, 0.5 * strength, 0.0)
    _, subject = pictures.labels.unique(dim=0, return_inverse=True)
    order = torch.argsort(subject, stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # mostly another scene of the same subject
    with track("draw imperfect pictures", len(pictures)) as progress:
        for index in torch.arange(len(pictures)).split(128):
            latents, others = (
                vae.encode(pictures.images(i) * 2 - 1, return_dict=False)[0].mean for i in (index, partner[index])
            )
            share = blend[index].view(-1, 1, 1, 1)
            noise = torch.randn(latents.shape, generator=rng) / vae.config["scaling_factor"]
            spoilt = (1 - share) * latents + share * others + noise_level[index].view(-1, 1, 1, 1) * noise
            decoded = vae.decode(spoilt, return_dict=False)[0] / 2 + 0.5
            pixels[index] = (decoded.clamp(0, 1) * 255).round().to(torch.uint8)
            progress.advance(len(index))
    return Imperfect(pixels, noise_level + 1.6 * blend)
