"""The tiny preference reward: PickScore's form, trained on the simulated annotator's choices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from distar.tiny.annotator import preference_probability, utility
from distar.tiny.clip import clip_features, contrastive_loss, new_clip
from distar.tiny.dataset import Pictures
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen
from distar.tiny.world import ATTRIBUTES, TEMPLATES


def build_preference(kitchen: Kitchen) -> None:
    """Train a CLIP on captions, then on the annotator's choices between two pictures for one, as PickScore was."""
    params = kitchen.recipe.preference
    model, tokens = new_clip(kitchen, "preference", params)
    purpose, pretraining = "preference_pretraining", params.pretraining
    matching_loss_at = contrastive_loss(kitchen, purpose, tokens, pretraining.batch_size)
    pretrained = fit(purpose, model, matching_loss_at, pretraining, kitchen.work_dir).train().requires_grad_(True)
    scenes = kitchen.pictures.scenes
    similar = _Neighbours(kitchen.pictures)

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

    trained = fit("preference", pretrained, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "preference")


def _clip_scores(clip: CLIPModel, images: Tensor, tokens: Tensor) -> Tensor:
    pictures, texts, scale = clip_features(clip, images.flatten(0, 1), tokens)
    return scale * (pictures.unflatten(0, images.shape[:2]) * texts[:, None]).sum(-1)


class _Neighbours:
    """Draw pictures for a caption: most of its own subject, the rest of subjects with one attribute changed, or any."""

    def __init__(self, pictures: Pictures) -> None:
        self._by_label = pictures.by_label
        self._labels = pictures.labels.tolist()
        self._sizes = tuple(map(len, ATTRIBUTES))

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
