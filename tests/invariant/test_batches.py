"""No network takes more samples at once than a parameter says, and memory does not grow with the number of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from distar.__main__ import main
from distar.bench.measure import peak_bytes
from distar.diffusion.families.params import SD15
from distar.diffusion.reference import sample_ddim
from distar.rewards.params import CLIPScore
from distar.training.monitors import Probe, draw_probe
from tests.miniature import edit

PROFILE = Path("profiles/mini.yaml")
CPU = torch.device("cpu")


@contextmanager
def largest_batches() -> Iterator[dict[str, int]]:
    """Note the most samples that any network takes at once, by what the samples are."""
    largest: dict[str, int] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        match module:
            case UNet2DConditionModel():
                kind = "denoised"
            case Decoder():
                kind = "decoded"
            case nn.Conv2d(in_channels=3):  # where rewards, judge and features begin
                kind = "scored"
            case nn.Embedding(num_embeddings=n) if n > 32:  # where text encoders begin
                kind = "encoded"
            case _:
                return
        largest[kind] = max(largest.get(kind, 0), len(args[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield largest
    finally:
        handle.remove()


def test_no_stage_exceeds_its_batch_size(project: Path) -> None:
    prompts = "".join(f"a red star on a white background {i}\n" for i in range(12))
    (project / "prompts" / "train.txt").write_text(prompts)
    edit(PROFILE, "embeddings", "batch_size", value=3)
    edit(PROFILE, "embeddings", "shard_size", value=8)
    edit(PROFILE, "train", "monitors", "num_probe_prompts", value=12)
    edit(PROFILE, "train", "micro_batch_size", value=4)
    edit(PROFILE, "train", "frozen_micro_batch_size", value=1)
    edit(PROFILE, "train", "reward_micro_batch_size", value=2)
    edit(PROFILE, "evaluate", "batch_size", value=3)
    edit(PROFILE, "evaluate", "diversity", value={"num_prompts": 4, "num_images_per_prompt": 4, "features": "matching"})
    guided = 2 * 3
    expected = {
        "prompts": {},
        "reference": {},
        "rewards": {},
        "embeddings": {"encoded": 3},
        "baseline": {"denoised": guided, "decoded": 3, "scored": 3, "encoded": 1},
        "train": {"denoised": 4, "decoded": 2, "scored": 2, "encoded": 1},
        "evaluate": {"denoised": 3, "decoded": 3, "scored": 3, "encoded": 1},
    }
    seen = {}
    for stage in expected:
        with largest_batches() as largest:
            assert main([stage]) == 0
        seen[stage] = largest
    assert seen == expected


@pytest.fixture(scope="module")
def models(miniature_models: Path) -> tuple[Any, Any, Any]:
    reference = SD15(family="sd15", source="file://reference", variant=None)
    encoder = reference.build_text_encoder(miniature_models / "reference")
    family = reference.build(miniature_models / "reference", encoder.encode_null())
    reward = CLIPScore(kind="clip_score", source="file://matching").build(miniature_models / "matching")
    return family, encoder, reward


def probe_peak(models: tuple[Any, Any, Any], num_prompts: int) -> tuple[int, int]:
    """Return a probe's peak of memory, and what its pictures, latents, noise and embeddings take of it."""
    family, encoder, reward = models
    prompts = tuple(f"a red star {i % 4}" for i in range(num_prompts) for _ in range(2))
    reward.text_features(prompts)
    embedding = encoder.encode(prompts)
    noise = torch.randn(len(prompts), *family.latent_shape, generator=torch.Generator().manual_seed(0))
    probe = Probe(prompts, 2, 2, family.decode, {"matching": reward}, reward)

    def look() -> None:
        draw = family.reference()
        latents = draw_probe(lambda z, c: sample_ddim(draw, z, c, 2, 2.0), noise, embedding, 2, CPU)
        probe.look(latents)

    peak = peak_bytes(look, [family, reward], [])
    side = family.latent_shape[1] * family.pixels_per_latent
    values = 3 * side * side + 2 * noise[0].numel() + sum(t[0].numel() for t in embedding.tensors.values())
    return peak, 4 * len(prompts) * values


def test_probes_memory_grows_by_its_pictures_alone(models: tuple[Any, Any, Any]) -> None:
    few, kept_of_few = probe_peak(models, 2)
    many, kept_of_many = probe_peak(models, 32)
    assert many - few <= 1.05 * (kept_of_many - kept_of_few)


def test_probe_in_parts_equals_one_piece(models: tuple[Any, Any, Any]) -> None:
    family, _, reward = models
    latents = torch.randn(8, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = tuple(f"a red star {i // 2}" for i in range(8))
    looks = [Probe(prompts, 2, size, family.decode, {"matching": reward}, reward).look(latents) for size in (8, 3, 1)]
    for look in looks[1:]:
        assert list(look) == list(looks[0])
        assert look == pytest.approx(looks[0], rel=1e-5, abs=1e-6)
