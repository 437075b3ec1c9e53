"""The tiny preference reward: PickScore's form, trained on the simulated annotator's choices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from distar.tiny.annotator import preference_probability, utility
from distar.tiny.clip import clip_features, new_clip
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen, caption_tokens
from distar.tiny.world import BACKGROUNDS, COLOURS, SHAPES, TEMPLATES


def build_preference(kitchen: Kitchen) -> None:
    """Train the preference reward on the simulated annotator's choices between two pictures for a caption."""
    params = kitchen.recipe.preference
    model, tokenizer = new_clip(kitchen, "preference", params)
    tokens = caption_tokens(tokenizer, kitchen.pictures)
    scenes = kitchen.pictures.scenes
    similar = _Neighbours(kitchen.pictures.labels)

    def loss_at(clip: CLIPModel, step: int) -> Tensor:
        size = params.fit.batch_size
        rng = kitchen.draws("preference", step)
        wanted = kitchen.batch_index("preference caption", step, size)
        shown = torch.stack([similar.draw(wanted, rng), similar.draw(wanted, rng)], dim=1)
        images, corruption = kitchen.seen_images(shown.flatten(), rng)
        utilities = [
            utility(scenes[wanted[i // 2]].subject, scenes[j], corruption[i].item())
            for i, j in enumerate(shown.flatten().tolist())
        ]
        first = torch.tensor(
            [preference_probability(a, b) for a, b in zip(utilities[::2], utilities[1::2], strict=True)]
        )
        chosen = torch.bernoulli(first, generator=rng)
        template = torch.randint(len(TEMPLATES), (size,), generator=rng)
        scores = _clip_scores(clip, images.unflatten(0, (size, 2)), tokens[wanted, template])
        return F.binary_cross_entropy_with_logits(scores[:, 0] - scores[:, 1], chosen)

    trained = fit("preference", model, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "preference")


def _clip_scores(clip: CLIPModel, images: Tensor, tokens: Tensor) -> Tensor:
    pictures, texts, scale = clip_features(clip, images.flatten(0, 1), tokens)
    return scale * (pictures.unflatten(0, images.shape[:2]) * texts[:, None]).sum(-1)


class _Neighbours:
    """Draw pictures for a caption: most of its own subject, the rest of subjects with one attribute changed, or any."""

    def __init__(self, labels: Tensor) -> None:
        self._by_label: dict[tuple[int, ...], list[int]] = {}
        for i, label in enumerate(labels.tolist()):
            self._by_label.setdefault(tuple(label), []).append(i)
        self._labels = labels.tolist()
        self._sizes = (len(SHAPES), len(COLOURS), len(BACKGROUNDS))

    def draw(self, wanted: Tensor, rng: torch.Generator) -> Tensor:
        chosen = []
        for i in wanted.tolist():
            label = list(self._labels[i])
            for attribute, size in enumerate(self._sizes):
                if torch.rand((), generator=rng) < 0.2:
                    label[attribute] = int(torch.randint(size, (), generator=rng))
            pictures = self._by_label.get(tuple(label)) or self._by_label[tuple(self._labels[i])]
            chosen.append(pictures[int(torch.randint(len(pictures), (), generator=rng))])
        return torch.tensor(chosen)
