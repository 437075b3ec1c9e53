"""The tiny preference reward: PickScore's form, trained on the simulated annotator's choices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from distar.tiny.annotator import preference_probability, utility
from distar.tiny.clip import clip_features, contrastive_loss, hard_batch, new_clip
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen
from distar.tiny.world import TEMPLATES


def build_preference(kitchen: Kitchen) -> None:
    """Train a CLIP on captions, then on the annotator's choices between two pictures for one, as PickScore was.

    A step shows a few subjects in several pictures each. The annotator chooses, for the caption of each subject,
    between all pairs of its own pictures, and between as many pairs of any.
    """
    params = kitchen.recipe.preference
    model, tokens = new_clip(kitchen, "preference", params)
    purpose, pretraining = "preference_pretraining", params.pretraining
    matching_loss_at = contrastive_loss(kitchen, purpose, tokens, pretraining.batch_size)
    pretrained = fit(purpose, model, matching_loss_at, pretraining, kitchen.work_dir).train().requires_grad_(True)
    scenes = kitchen.pictures.scenes

    def loss_at(clip: CLIPModel, step: int) -> Tensor:
        rng = kitchen.draws("preference", step)
        shown = hard_batch(kitchen, 2, params.fit.batch_size // 8, rng)  # subjects x pictures
        wanted = shown[:, 0]
        images, corruption = kitchen.seen_images(shown.flatten(), rng)
        utilities = torch.tensor(
            [
                [
                    utility(scenes[i].subject, scenes[j], noise)
                    for j, noise in zip(shown.flatten().tolist(), corruption.tolist(), strict=True)
                ]
                for i in wanted.tolist()
            ]
        )
        template = torch.randint(len(TEMPLATES), (len(wanted),), generator=rng)
        pictures, captions, scale = clip_features(clip, images, tokens[wanted, template])
        scores = scale * captions @ pictures.T
        losses = F.binary_cross_entropy_with_logits(
            scores[:, :, None] - scores[:, None, :],
            torch.bernoulli(preference_probability(utilities[:, :, None] - utilities[:, None, :]), generator=rng),
            reduction="none",
        )
        own = torch.arange(len(wanted)).repeat_interleave(shown.shape[1]) == torch.arange(len(wanted))[:, None]
        own_pairs = own[:, :, None] & own[:, None, :]
        return (losses[own_pairs].mean() + losses.mean()) / 2

    trained = fit("preference", pretrained, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "preference")
