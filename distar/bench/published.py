"""HPSv2 and ImageReward with random weights, written in the format in which their authors publish them."""

from __future__ import annotations

import io
import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distar.rewards.head import ScoreHead
from distar.rewards.image_reward import VOCABULARY_SIZE
from distar.rewards.params import (
    BERT_VOCABULARY,
    HPSV2_CONFIG,
    HPSV2_WEIGHTS,
    IMAGE_REWARD_CONFIG,
    IMAGE_REWARD_WEIGHTS,
)

_IMAGE_SIZE = 224
_NUM_POSITIONS = 512  # of ImageReward's prompts, as published


@dataclass(frozen=True)
class Encoder:
    """How large a transformer is; its feed-forward layers are four times as wide as itself."""

    width: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True)
class RewardSize:
    """What encodes pictures, of patches of so many pixels, and what encodes prompts."""

    images: Encoder
    patch_size: int
    prompts: Encoder


SMALL_HPSV2 = RewardSize(Encoder(64, 2, 2), 28, Encoder(32, 2, 2))
SMALL_IMAGE_REWARD = RewardSize(Encoder(64, 2, 1), 32, Encoder(32, 2, 2))


def save_hpsv2(folder: Path, size: RewardSize = SMALL_HPSV2) -> Path:
    """Write an HPSv2.1 checkpoint, in fp16 under `state_dict`, and return its path.

    `open_clip_config.json` beside it tells that it is no ViT-H/14.
    """
    from open_clip import CLIP

    images, prompts = size.images, size.prompts
    architecture: dict[str, Any] = {
        "embed_dim": prompts.width,
        "vision_cfg": {
            "image_size": _IMAGE_SIZE,
            "layers": images.num_layers,
            "width": images.width,
            "head_width": images.width // images.num_heads,
            "patch_size": size.patch_size,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": prompts.width,
            "heads": prompts.num_heads,
            "layers": prompts.num_layers,
        },
    }
    model = CLIP(**architecture)
    roughen(model)
    folder.mkdir(parents=True)
    path = folder / HPSV2_WEIGHTS["2.1"]
    _save({"state_dict": {name: tensor.half() for name, tensor in model.state_dict().items()}}, path)
    (folder / HPSV2_CONFIG).write_text(json.dumps({"model_cfg": architecture}))
    return path


def save_image_reward(folder: Path, size: RewardSize = SMALL_IMAGE_REWARD) -> None:
    """Write an ImageReward checkpoint under BLIP's names, `med_config.json`, and a vocabulary of BERT's size.

    The heads of its pictures' encoder are 64 wide, whatever their number is said to be. The vocabulary holds characters
    and is filled up with words that no prompt has.
    """
    images, prompts = size.images, size.prompts
    shapes: dict[str, list[int]] = {
        "blip.visual_encoder.cls_token": [1, 1, images.width],
        "blip.visual_encoder.pos_embed": [1, (_IMAGE_SIZE // size.patch_size) ** 2 + 1, images.width],
        "blip.visual_encoder.patch_embed.proj.weight": [images.width, 3, size.patch_size, size.patch_size],
        "blip.visual_encoder.patch_embed.proj.bias": [images.width],
        **_norm("blip.visual_encoder.norm", images.width),
        "blip.text_encoder.embeddings.word_embeddings.weight": [VOCABULARY_SIZE + 2, prompts.width],
        "blip.text_encoder.embeddings.position_embeddings.weight": [_NUM_POSITIONS, prompts.width],
        **_norm("blip.text_encoder.embeddings.LayerNorm", prompts.width),
        **_linear("blip.vision_proj", images.width, 256),
        **_linear("blip.text_proj", prompts.width, 256),
    }
    for i in range(images.num_layers):
        shapes |= _image_block(f"blip.visual_encoder.blocks.{i}", images.width)
    for i in range(prompts.num_layers):
        shapes |= _prompt_layer(f"blip.text_encoder.encoder.layer.{i}", prompts.width, images.width)
    shapes |= {f"mlp.{name}": [*t.shape] for name, t in ScoreHead(prompts.width).state_dict().items()}
    weights = {name: _draw(name, shape) for name, shape in shapes.items()}
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(_NUM_POSITIONS)[None]
    config = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": prompts.width,
        "initializer_range": 0.02,
        "intermediate_size": 4 * prompts.width,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": _NUM_POSITIONS,
        "model_type": "bert",
        "num_attention_heads": prompts.num_heads,
        "num_hidden_layers": prompts.num_layers,
        "pad_token_id": 0,
        "add_type_embeddings": False,
        "vocab_size": VOCABULARY_SIZE + 2,
        "encoder_width": 768,  # as published; the package puts the picture encoder's width in its place
        "add_cross_attention": True,
    }
    (folder / "model").mkdir(parents=True)
    _save(weights, folder / "model" / IMAGE_REWARD_WEIGHTS)
    (folder / "model" / IMAGE_REWARD_CONFIG).write_text(json.dumps(config))
    (folder / "vocabulary").mkdir()
    characters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    words += [f"[unused{i}]" for i in range(VOCABULARY_SIZE - len(words))]
    (folder / "vocabulary" / BERT_VOCABULARY).write_text("\n".join(words) + "\n")


def _save(weights: dict[str, Any], path: Path) -> None:
    written = io.BytesIO()  # torch would tell a full disk as an error of its own
    torch.save(weights, written)
    path.write_bytes(written.getbuffer())


def roughen(model: nn.Module) -> None:
    """Move every parameter, so that none is left at a zero or a one that would hide a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def _image_block(name: str, width: int) -> dict[str, list[int]]:
    return {
        **_norm(f"{name}.norm1", width),
        **_norm(f"{name}.norm2", width),
        **_linear(f"{name}.attn.qkv", width, 3 * width),
        **_linear(f"{name}.attn.proj", width, width),
        **_linear(f"{name}.mlp.fc1", width, 4 * width),
        **_linear(f"{name}.mlp.fc2", 4 * width, width),
    }


def _prompt_layer(name: str, width: int, image_width: int) -> dict[str, list[int]]:
    shapes = {
        **_linear(f"{name}.intermediate.dense", width, 4 * width),
        **_linear(f"{name}.output.dense", 4 * width, width),
        **_norm(f"{name}.output.LayerNorm", width),
    }
    for attention, source in ((f"{name}.attention", width), (f"{name}.crossattention", image_width)):
        shapes |= _linear(f"{attention}.self.query", width, width)
        shapes |= _linear(f"{attention}.self.key", source, width)
        shapes |= _linear(f"{attention}.self.value", source, width)
        shapes |= _linear(f"{attention}.output.dense", width, width)
        shapes |= _norm(f"{attention}.output.LayerNorm", width)
    return shapes


def _linear(name: str, inner: int, outer: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [outer, inner], f"{name}.bias": [outer]}


def _norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def _draw(name: str, shape: list[int]) -> Tensor:
    around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
    return around + torch.randn(shape) * (0.1 if len(shape) < 2 else shape[-1] ** -0.5 if len(shape) == 2 else 0.05)
