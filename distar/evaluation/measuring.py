"""Measure one system: draw the evaluation's pictures, score them, and keep both."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from distar.diffusion.families import Family
from distar.diffusion.prompt import EncodedPrompts
from distar.evaluation.metrics import Estimate, pairwise_distance, picture_statistics
from distar.evaluation.params import EvaluateParams
from distar.evaluation.sampling import Draw, Requests, draw_images
from distar.rewards.cosine import CosineReward
from distar.rewards.reward import Reward

_PICTURES, _SUMMARY = "pictures.parquet", "summary.json"


@dataclass(frozen=True)
class Measured:
    """What a system drew, how each picture scored, and the summary that `metrics.json` shows.

    Pictures are 8-bit, as they would be saved, and are scored as such.
    """

    prompts: tuple[str, ...]
    images: UInt8[Tensor, "n 3 h w"]
    scores: dict[str, Float[Tensor, " n"]]
    summary: dict[str, object]

    def write(self, folder: Path) -> None:
        """Write pictures and scores as one parquet file, and the summary beside it."""
        folder.mkdir(parents=True)
        columns = {"prompt": list(self.prompts), "png": [_png(image) for image in self.images]}
        columns |= {name: values.tolist() for name, values in self.scores.items()}
        pq.write_table(pa.table(columns), folder / _PICTURES)
        (folder / _SUMMARY).write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """Read what `write` wrote."""
        columns = pq.read_table(folder / _PICTURES).to_pydict()
        prompts, pngs = tuple(columns.pop("prompt")), columns.pop("png")
        pictures = [np.array(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs]
        return cls(
            prompts,
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2),
            {name: torch.tensor(values) for name, values in columns.items()},
            json.loads((folder / _SUMMARY).read_text(encoding="utf-8")),
        )


@torch.no_grad()
def measure(
    name: str,
    draw: Draw,
    family: Family,
    rewards: dict[str, Reward],
    features: CosineReward,
    prompts: Sequence[str],
    encoded: EncodedPrompts,
    params: EvaluateParams,
    seed: int,
) -> Measured:
    """Draw one picture of each prompt and several of a few; score the first, compare `features` of the others."""
    shape, diversity = family.latent_shape, params.diversity
    requests = Requests.make(prompts, encoded, 1, shape, seed, "evaluation")
    images = draw_images(name, draw, family, requests, params.batch_size)
    scores = {
        reward: torch.cat(
            [
                rewards[reward](_unit(batch, family), requests.prompts[i : i + len(batch)]).cpu()
                for i, batch in _batches(images, params.batch_size)
            ]
        )
        for reward in [*params.rewards, *([params.judge] if params.judge else [])]
    }
    few = prompts[: diversity.num_prompts]
    repeated = Requests.make(few, encoded, diversity.num_images_per_prompt, shape, seed, "diversity")
    several = draw_images(f"{name}, for diversity", draw, family, repeated, params.batch_size)
    embedded = [features.image_features(_unit(batch, family)) for _, batch in _batches(several, params.batch_size)]
    distances = pairwise_distance(torch.cat(embedded), diversity.num_images_per_prompt)
    return Measured(requests.prompts, images, scores, _summary(images, scores, distances, params))


def _summary(images: Tensor, scores: dict[str, Tensor], distances: Tensor, params: EvaluateParams) -> dict[str, object]:
    summary: dict[str, object] = {"rewards": {name: vars(Estimate.of(scores[name])) for name in params.rewards}}
    if params.judge:
        summary["judge_accuracy"] = scores[params.judge].double().mean().item()
    summary["diversity"] = distances.double().mean().item()
    statistics = [picture_statistics(batch.float() / 255) for _, batch in _batches(images, params.batch_size)]
    for name in statistics[0]:
        summary[name] = torch.cat([part[name] for part in statistics]).double().mean().item()
    return summary


def _batches(images: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(start, images[start : start + size]) for start in range(0, len(images), size)]


def _unit(images: UInt8[Tensor, "b 3 h w"], family: Family) -> Float[Tensor, "b 3 h w"]:
    return images.to(family.device).float() / 255


def _png(image: UInt8[Tensor, "3 h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
