"""A CLIP model read as a reward: the common part of PickScore and CLIPScore."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distar.rewards.reward import Reward


class ClipReward(Reward):
    """Cosine of picture and prompt in a transformers `CLIPModel`, times `scale`.

    Args:
        folder: the model in the hub's layout: weights, tokenizer and `preprocessor_config.json`.
        scale: what the cosine is multiplied with; None for the model's own learnt temperature.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, scale: float | None) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        super().__init__()
        self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        preprocessing = json.loads((folder / "preprocessor_config.json").read_text())
        self.register_buffer("mean", torch.tensor(preprocessing["image_mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing["image_std"]).view(1, 3, 1, 1), persistent=False)
        self.image_size: int = self.model.config.vision_config.image_size
        self.scale = self.model.logit_scale.exp().item() if scale is None else scale
        self._text_features: dict[str, Tensor] = {}
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt, in fp32 from the features on."""
        return self.scale * (self.image_features(images) * self.text_features(prompts)).sum(1)

    def image_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embed images on the unit sphere: short side resized (bicubic, antialiased), centre crop, normalised."""
        size = self.image_size
        if images.shape[-2:] != (size, size):
            height, width = images.shape[-2:]
            ratio = size / min(height, width)
            resized = (max(size, round(height * ratio)), max(size, round(width * ratio)))
            images = F.interpolate(images, resized, mode="bicubic", antialias=True, align_corners=False)
            top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
            images = images[..., top : top + size, left : left + size]
        features = self.model.get_image_features(pixel_values=(images - self.mean) / self.std).pooler_output
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Embed prompts on the unit sphere; each prompt is encoded once in the reward's life.

        It is encoded alone: in a batch its last bits would depend on the batch's size, and so on what was asked
        before, and a resumed run would no longer equal an uninterrupted one.
        """
        for prompt in prompts:
            if prompt not in self._text_features:
                tokens = self.tokenizer(
                    prompt,
                    padding="max_length",
                    truncation=True,
                    max_length=self.model.config.text_config.max_position_embeddings,
                    return_tensors="pt",
                ).to(self.model.device)
                features = self.model.get_text_features(**tokens).pooler_output
                self._text_features[prompt] = F.normalize(features.float(), dim=1)[0]
        return torch.stack([self._text_features[prompt] for prompt in prompts])
