"""The tiny judge, never trained against: a classifier of the attributes, and a matching model."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor

from distar.rewards.attributes import AttributeClassifier
from distar.tiny.clip import contrastive_loss, new_clip
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen
from distar.tiny.world import BACKGROUNDS, COLOURS, SHAPES


def build_classifier(kitchen: Kitchen) -> None:
    """Train the judge's classifier of shape, colour and background."""
    params = kitchen.recipe.classifier
    attributes = {"shape": list(SHAPES), "colour": list(COLOURS), "background": list(BACKGROUNDS)}
    kitchen.start("classifier")
    model = AttributeClassifier(params.channels, attributes)

    def loss_at(classifier: AttributeClassifier, step: int) -> Tensor:
        index = kitchen.batch_index("classifier", step, params.fit.batch_size)
        images, _ = kitchen.seen_images(index, kitchen.draws("classifier noise", step))
        labels = kitchen.pictures.labels[index]
        logits = classifier(images)
        return torch.stack([F.cross_entropy(logits[name], labels[:, i]) for i, name in enumerate(attributes)]).sum()

    trained = fit("classifier", model, loss_at, params.fit, kitchen.work_dir)
    folder = kitchen.models_dir / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    save_model(trained.half(), str(folder / "model.safetensors"))
    config = {"channels": params.channels, "attributes": attributes}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_matching(kitchen: Kitchen) -> None:
    """Train the judge's CLIP on captions and pictures alone: contrastive, never shown a preference."""
    params = kitchen.recipe.matching
    model, tokens = new_clip(kitchen, "matching", params)
    loss_at = contrastive_loss(kitchen, "matching", tokens, params.fit.batch_size)
    trained = fit("matching", model, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "matching")
