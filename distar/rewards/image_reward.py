"""ImageReward: BLIP with a linear head, trained on people's rankings (Xu et al. 2023, arXiv 2304.05977)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distar.errors import ModelFileError
from distar.rewards.head import ScoreHead
from distar.rewards.params import BERT_VOCABULARY, IMAGE_REWARD_CONFIG, IMAGE_REWARD_WEIGHTS
from distar.rewards.preprocess import CLIP_MEAN, CLIP_STD, Normalise, resize_short_side
from distar.rewards.reward import Reward
from distar.rewards.weights import load_strictly, read_checkpoint, read_json

NUM_TOKENS = 35
VOCABULARY_SIZE = 30522
RAW_MEAN, RAW_STD = 0.16717362830052426, 1.0333394966054072

# What BLIP's own names of the picture encoder's layers are in transformers; the text encoder's agree.
_IMAGE_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "blocks": "encoder.layers",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm": "post_layernorm",
}


class BlipReward(Reward):
    """ImageReward as transformers computes it: the prompt's encoder looks at the picture, the head at its first token.

    Picture and prompt go through one network together, so that no prompt can be encoded ahead.
    """

    max_tokens = NUM_TOKENS

    def __init__(self, folder: Path) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        path = folder / "model" / IMAGE_REWARD_WEIGHTS
        weights = read_checkpoint(path)
        vision: Any = vision_sizes(weights, path)
        text = read_text_config(folder / "model" / IMAGE_REWARD_CONFIG)
        self.tokenizer = load_tokenizer(folder / "vocabulary" / BERT_VOCABULARY, text["vocab_size"])
        self.image_encoder: Any = BlipVisionModel(BlipVisionConfig(**vision, layer_norm_eps=1e-6))
        self.text_encoder: Any = BlipTextModel(
            BlipTextConfig(**text, encoder_hidden_size=vision["hidden_size"], is_decoder=True), add_pooling_layer=False
        )
        self.head = ScoreHead(text["hidden_size"])
        load_strictly(self.image_encoder, _renamed(_part(weights, "blip.visual_encoder.")), path)
        load_strictly(self.text_encoder, _part(weights, "blip.text_encoder."), path)
        load_strictly(self.head, _part(weights, "mlp."), path)
        # transformers keeps a picture's features in the type of these weights
        self.image_encoder.embeddings.patch_embedding.keep_in_fp32 = True
        self.image_size: int = vision["image_size"]
        self.normalise = Normalise(CLIP_MEAN, CLIP_STD)
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt, of which 35 tokens are read."""
        return self.score_pixels(self.preprocess(images), prompts)

    def preprocess(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 size size"]:
        """Resize the short side, crop the centre, normalise."""
        from torchvision.transforms.functional import center_crop

        return self.normalise(center_crop(resize_short_side(images, self.image_size), [self.image_size]))

    def score_pixels(self, pixels: Float[Tensor, "b 3 size size"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score normalised pictures of the network's own size."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
        ).to(pixels.device)
        encoded = self.text_encoder(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=self.image_encoder(pixel_values=pixels).last_hidden_state,
        ).last_hidden_state[:, 0]
        return (self.head(encoded) - RAW_MEAN) / RAW_STD

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        return len(self.tokenizer(prompt, verbose=False).input_ids)


def load_tokenizer(path: Path, model_size: int) -> Any:
    """Load BERT's tokenizer from its vocabulary, with the two tokens that BLIP adds.

    transformers gives a tokenizer of five tokens, and no error, where it finds no vocabulary: the size is checked.

    Raises:
        ModelFileError: the vocabulary is not that of uncased BERT, or not as large as the model's.
    """
    from transformers import BertTokenizer

    if not path.is_file():
        raise ModelFileError(f"{path} does not exist; run the stage `rewards`, which fetches it")
    tokenizer = BertTokenizer.from_pretrained(path.parent, local_files_only=True)
    if len(tokenizer) != VOCABULARY_SIZE:
        raise ModelFileError(
            f"{path} holds {len(tokenizer)} tokens, expected the {VOCABULARY_SIZE} of bert-base-uncased; "
            "check `vocabulary` of the image_reward reward"
        )
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != model_size:
        raise ModelFileError(
            f"{path} makes {len(tokenizer)} tokens with BLIP's two, but {IMAGE_REWARD_CONFIG} says {model_size}; "
            "check `source` of the image_reward reward"
        )
    return tokenizer


def vision_sizes(weights: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """Read the picture encoder's sizes off its weights; in BLIP's vision transformers a head is 64 wide.

    Raises:
        ModelFileError: the weights are not those of a BLIP picture encoder.
    """
    prefix = "blip.visual_encoder."
    try:
        width, _, patch, _ = weights[f"{prefix}patch_embed.proj.weight"].shape
        num_positions = weights[f"{prefix}pos_embed"].shape[1]
        inner = weights[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ModelFileError(
            f"{path} lacks {error}, expected in an ImageReward checkpoint; check `source` of the image_reward reward"
        ) from None
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len({name.split(".")[3] for name in weights if name.startswith(f"{prefix}blocks.")}),
        "num_attention_heads": width // 64,
        "image_size": round((num_positions - 1) ** 0.5) * patch,
        "patch_size": patch,
    }


def read_text_config(path: Path) -> dict[str, Any]:
    """Read the text encoder's sizes.

    Raises:
        ModelFileError: the file is missing, not JSON, or lacks one of them.
    """
    needed = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "pad_token_id",
    ]
    config = read_json(path)
    lacking = [name for name in needed if name not in config]
    if lacking:
        raise ModelFileError(
            f"{path} lacks {', '.join(lacking)}; expected is the med_config.json that ImageReward publishes: "
            "check `source` of the image_reward reward"
        )
    return {name: config[name] for name in needed}


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        parts = f".{name}."
        for theirs, ours in _IMAGE_NAMES.items():
            parts = parts.replace(f".{theirs}.", f".{ours}.")
        renamed[parts.strip(".")] = tensor
    return renamed
