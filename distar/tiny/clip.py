"""CLIP models in miniature: what the preference reward and the judge's matching model have in common."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distar.tiny.recipe import ClipRecipe, Kitchen, caption_tokens
from distar.tiny.renderer import RESOLUTION
from distar.tiny.world import ATTRIBUTES, TEMPLATES


def new_clip(kitchen: Kitchen, name: str, params: ClipRecipe) -> tuple[CLIPModel, Tensor]:
    """Make an untrained model, write how its pictures are normalised, and tokenize the captions of all pictures."""
    folder = kitchen.models_dir / name
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    size = {"hidden_size": params.hidden_size, "num_layers": params.num_layers, "num_heads": params.num_heads}
    text = text_config(tokenizer, **size, max_tokens=kitchen.recipe.text_encoder.max_tokens)
    vision = {
        "hidden_size": params.hidden_size,
        "intermediate_size": 4 * params.hidden_size,
        "num_hidden_layers": params.num_layers,
        "num_attention_heads": params.num_heads,
        "image_size": RESOLUTION,
        "patch_size": params.patch_size,
    }
    kitchen.start(name)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=params.projection_dim)
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": RESOLUTION}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n", encoding="utf-8")
    return CLIPModel(config), caption_tokens(tokenizer, kitchen.pictures)


def hard_batch(kitchen: Kitchen, num_values: int, num_pictures: int, rng: torch.Generator) -> Tensor:
    """Choose pictures whose captions differ in as little as one word, so that every word must be seen in the picture.

    These are `num_values` shapes, each with as many colours, each of those with as many backgrounds; combinations
    that no model may be trained on are left out.

    Returns:
        Indices of shape (subjects, num_pictures).
    """
    by_label = kitchen.pictures.by_label
    labels: list[tuple[int, ...]] = []
    while not labels:
        chosen = [torch.randperm(len(names), generator=rng)[:num_values].tolist() for names in ATTRIBUTES]
        labels = [label for label in itertools.product(*chosen) if label in by_label]
    ranks = torch.randint(kitchen.recipe.pictures_per_subject, (len(labels), num_pictures), generator=rng).tolist()
    return torch.tensor([[by_label[label][r] for r in row] for label, row in zip(labels, ranks, strict=True)])


def contrastive_loss(
    kitchen: Kitchen, purpose: str, tokens: Tensor, batch_size: int
) -> Callable[[CLIPModel, int], Tensor]:
    """Make CLIP's loss on hard batches of about `batch_size` subjects, one picture each."""
    num_values = round(batch_size ** (1 / 3))

    def loss_at(clip: CLIPModel, step: int) -> Tensor:
        rng = kitchen.draws(purpose, step)
        index = hard_batch(kitchen, num_values, 1, rng).flatten()
        template = torch.randint(len(TEMPLATES), (len(index),), generator=rng)
        images, _ = kitchen.seen_images(index, rng)
        pictures, texts, scale = clip_features(clip, images, tokens[index, template])
        logits, target = scale * pictures @ texts.T, torch.arange(len(index))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return loss_at


def text_config(
    tokenizer: CLIPTokenizer, hidden_size: int, num_layers: int, num_heads: int, max_tokens: int
) -> dict[str, Any]:
    """Fill in a CLIPTextConfig."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "projection_dim": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "max_position_embeddings": max_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def clip_features(clip: Any, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embed pictures and captions on the unit sphere; return both and the learnt temperature."""
    pictures = clip.get_image_features(pixel_values=(images - 0.5) / 0.25).pooler_output
    texts = clip.get_text_features(input_ids=tokens).pooler_output
    return F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1), clip.logit_scale.exp()
