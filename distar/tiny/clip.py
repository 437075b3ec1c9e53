"""CLIP models in miniature: what the preference reward and the judge's matching model have in common."""

from __future__ import annotations

import json
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distar.tiny.recipe import ClipRecipe, Kitchen
from distar.tiny.renderer import RESOLUTION


def new_clip(kitchen: Kitchen, name: str, params: ClipRecipe) -> tuple[CLIPModel, CLIPTokenizer]:
    """Make an untrained model with the world's tokenizer, and write how its pictures are normalised."""
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
    return CLIPModel(config), tokenizer


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
