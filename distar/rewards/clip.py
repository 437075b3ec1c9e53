"""CLIP models in the hub's layout, read as rewards: the common part of PickScore, CLIPScore and Aesthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distar.rewards.cosine import CosineReward
from distar.rewards.preprocess import Normalise, crop_centre, resize_short_side
from distar.rewards.weights import load_strictly, read_json, read_safetensors


class ClipReward(CosineReward):
    """Cosine of picture and prompt in a transformers `CLIPModel`, times `scale`.

    Args:
        folder: the model in the hub's layout: weights, tokenizer and `preprocessor_config.json`.
        scale: what the cosine is multiplied with; None for the model's own learnt temperature.
    """

    def __init__(self, folder: Path, scale: float | None) -> None:
        from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

        config: Any = CLIPConfig.from_dict(read_json(folder / "config.json"))
        model: Any = CLIPModel(config)
        load_strictly(model, read_safetensors(folder / "model.safetensors"), folder / "model.safetensors")
        super().__init__(model.logit_scale.exp().item() if scale is None else scale)
        self.model = model
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.normalise = read_normalisation(folder)
        self.image_size: int = config.vision_config.image_size
        self.max_tokens = config.text_config.max_position_embeddings
        self.freeze()

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embed images: short side resized (bicubic, antialiased), centre crop, normalised."""
        pixels = self.normalise(crop_centre(resize_short_side(images, self.image_size), self.image_size))
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def embed_prompt(self, prompt: str) -> Float[Tensor, "1 d"]:
        """Embed one prompt, cut where the model stops reading."""
        tokens = self.tokenizer(
            prompt, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        return self.model.get_text_features(**tokens).pooler_output

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        return len(self.tokenizer(prompt, verbose=False).input_ids)


def read_normalisation(folder: Path) -> Normalise:
    """Read the mean and the standard deviation that a CLIP model's pictures are normalised with."""
    preprocessing = read_json(folder / "preprocessor_config.json")
    return Normalise(preprocessing["image_mean"], preprocessing["image_std"])
