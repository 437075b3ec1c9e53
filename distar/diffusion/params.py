"""What is asked of networks and embeddings; nothing here computes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NoiseScale = Literal["sigma", "one"]
"""What the noise is multiplied with at the generator's input: sigma_t (SiD-LSG, PixArt) or 1 (DMD2's SDXL)."""

Checkpointing = Literal["none", "decoder", "all"]
"""Whose activations are computed again when they are needed: the decoder's, or the denoising networks' too."""


class LoraParams(BaseModel):
    """W + (alpha / rank) B A for the layers whose names end as `target_modules` says; A, B of rank `rank`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    target_modules: list[str] = Field(min_length=1)


class EmbeddingParams(BaseModel):
    """How prompts are encoded: in batches of `batch_size`, kept in `dtype`, `shard_size` prompts a file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    dtype: Literal["float32", "bfloat16"]
    batch_size: int = Field(gt=0)
    shard_size: int = Field(gt=0)
