"""The LAION aesthetic predictor: how people rate a picture's looks, from 1 to 10, whatever its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distar.errors import ModelFileError
from distar.rewards.clip import read_normalisation
from distar.rewards.head import ScoreHead
from distar.rewards.preprocess import crop_centre, resize_short_side
from distar.rewards.reward import Reward, full_precision
from distar.rewards.weights import load_strictly, read_checkpoint, read_json, read_safetensors


class AestheticReward(Reward):
    """Score pictures by a linear head on their CLIP embedding; prompts are not read."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPConfig, CLIPVisionModelWithProjection

        super().__init__()
        config: Any = CLIPConfig.from_dict(read_json(folder / "clip" / "config.json"))
        config.vision_config.projection_dim = config.projection_dim  # a part of a whole model does not know the whole's
        self.model: Any = CLIPVisionModelWithProjection(config.vision_config)
        path = folder / "clip" / "model.safetensors"
        parts = ("vision_model.", "visual_projection.")
        seen = {name: tensor for name, tensor in read_safetensors(path).items() if name.startswith(parts)}
        load_strictly(self.model, seen, path)
        self.normalise = read_normalisation(folder / "clip")
        self.image_size: int = config.vision_config.image_size
        path = _head_file(folder / "head")
        self.head = ScoreHead(config.projection_dim)
        load_strictly(self.head, read_checkpoint(path), path)
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image; the prompts do not matter."""
        pixels = self.normalise(crop_centre(resize_short_side(images, self.image_size), self.image_size))
        features = self.model(pixel_values=pixels).image_embeds
        return self.head(F.normalize(full_precision(features), dim=1))


def _head_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ModelFileError(
            f"{folder} holds {len(files)} .pth files, expected one: the head's weights; "
            "let `source` of the aesthetic reward name that file, and run the stage `rewards`"
        )
    return files[0]
