"""References of every family in miniature: the real classes at tiny width with random weights, in the hub's layout."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

REPOSITORY = Path(__file__).parent.parent
TOKENIZER = REPOSITORY / "models" / "tiny" / "reference" / "tokenizer"
WIDTH, TOKENS = 16, 16
LATENT_SIZE, RESOLUTION = 4, 16


def save_sd15(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    components: dict[str, Any] = {
        "vae": make_autoencoder(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text_config(tokenizer))),
        "tokenizer": tokenizer,
        "unet": make_unet(cross_attention_dim=WIDTH),
        "scheduler": DDIMScheduler(**SCALED_LINEAR, set_alpha_to_one=False, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**components, requires_safety_checker=False).save_pretrained(folder)
    rename_weights(folder / "text_encoder" / "model.safetensors", as_published_clip)
    rename_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", as_published_vae)


def save_sdxl(folder: Path) -> None:
    """Weights are saved as the `fp16` variant, under the names that such files have on the hub."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    config = {**text_config(tokenizer), "num_hidden_layers": 2}
    time_ids_width = 4
    unet = make_unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_ids_width,
        projection_class_embeddings_input_dim=6 * time_ids_width + WIDTH,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    components: dict[str, Any] = {
        "vae": make_autoencoder(scaling_factor=0.13025),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config)),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading"),
    }
    for name in ("vae", "text_encoder", "text_encoder_2", "unet"):
        components[name].half()
    StableDiffusionXLPipeline(**components, force_zeros_for_empty_prompt=True).save_pretrained(folder, variant="fp16")


def save_pixart(folder: Path, pipeline_class: type[DiffusionPipeline] = PixArtAlphaPipeline) -> None:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=LATENT_SIZE,
        patch_size=2,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    tokenizer = make_t5_tokenizer(folder / "tokenizer")
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    components: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": make_autoencoder(),
        "transformer": transformer,
        "scheduler": DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    }
    pipeline_class(**components).save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()  # not in the hub's repository


def as_published_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a CLIP text encoder's weights as SD1.5's file does, which also holds the positions."""
    prefix = "text_model."
    named = {name if name.startswith(prefix) else prefix + name: value for name, value in state.items()}
    positions = named[f"{prefix}embeddings.position_embedding.weight"].shape[0]
    return named | {f"{prefix}embeddings.position_ids": torch.arange(positions)[None]}


def as_published_vae(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name an autoencoder's weights as SD1.5's file does: attention as diffusers called it then."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = {}
    for name, value in state.items():
        for new, old in renamed.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")  # noqa: PLW2901
        named[name] = value
    return named


def rename_weights(path: Path, rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(rename(load_file(path)), path, metadata={"format": "pt"})


REFERENCES: dict[str, Callable[[Path], None]] = {"sd15": save_sd15, "sdxl": save_sdxl, "pixart": save_pixart}

SCALED_LINEAR: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def text_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, WIDTH),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def make_autoencoder(**options: Any) -> AutoencoderKL:
    config: dict[str, Any] = {
        "sample_size": RESOLUTION,
        "block_out_channels": (8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return AutoencoderKL(**config, **options)


def make_t5_tokenizer(folder: Path) -> T5Tokenizer:
    """Train a SentencePiece model on a few captions and write it as T5's repositories hold it: `spiece.model`."""
    captions = [f"a {colour} {shape} on {ground}" for colour in ("red", "teal") for shape in ("star", "moon")
                for ground in ("sand", "white")]  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=20, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    return T5Tokenizer.from_pretrained(folder)


def load_plain(folder: Path) -> Any:
    """Load a pipeline as anybody would, without this project."""
    return DiffusionPipeline.from_pretrained(folder)
