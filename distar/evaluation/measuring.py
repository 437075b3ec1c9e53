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
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from distar.diffusion.families.family import Family
from distar.diffusion.prompt import EncodedPrompts
from distar.errors import WorkDirectoryError
from distar.evaluation.cost import DrawingCost
from distar.evaluation.fid import FID, NUM_FEATURES
from distar.evaluation.metrics import pairwise_distance, picture_statistics
from distar.evaluation.params import EvaluateParams
from distar.evaluation.parts import in_parts, read_columns
from distar.evaluation.protocols import estimate, estimate_by_label
from distar.evaluation.sampling import Draw, Requests, draw_batch
from distar.evaluation.summary import read_summary
from distar.pictures import read_png
from distar.rewards.cosine import CosineReward
from distar.rewards.reward import Reward

_PICTURES, _DIVERSITY, _SUMMARY = "pictures.parquet", "diversity.parquet", "summary.json"


@dataclass(frozen=True)
class Evaluation:
    """What every system is measured on, and with."""

    params: EvaluateParams
    seed: int
    family: Family
    prompts: tuple[str, ...]
    encoded: EncodedPrompts
    labels: tuple[str | None, ...]
    scorers: dict[str, Reward]
    features: CosineReward
    fid: FID | None
    accelerator: Accelerator

    @property
    def scored(self) -> list[str]:
        """The scorers that look at every picture."""
        return [*self.params.rewards, *([self.params.judge] if self.params.judge else [])]


@dataclass(frozen=True)
class Parts:
    """The files that hold what was measured: a row a picture, in the prompts' order."""

    pictures: list[Path]
    diversity: list[Path]


@dataclass(frozen=True)
class Measured:
    """How each of a system's pictures scored, the summary that `metrics.json` shows, and where the pictures are.

    `statistics` are those of the same pictures; `diversity` is that of the first prompts, which were drawn repeatedly.
    Pictures are 8-bit, as they would be saved, and are scored as such. They stay on disk: those of a whole prompt set
    do not fit into memory.
    """

    files: list[Path]
    scores: dict[str, Float[Tensor, " n"]]
    statistics: dict[str, Float[Tensor, " n"]]
    diversity: Float[Tensor, " k"]
    summary: dict[str, object]

    def write(self, folder: Path) -> None:
        """Write pictures and scores as one parquet file, and diversity and summary beside it."""
        folder.mkdir(parents=True)
        with pq.ParquetWriter(folder / _PICTURES, pq.read_schema(self.files[0])) as writer:
            for file in self.files:
                writer.write_table(read_columns([file]))
        pq.write_table(pa.table({"diversity": self.diversity.numpy()}), folder / _DIVERSITY)
        (folder / _SUMMARY).write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """Read what `write` wrote."""
        files = [folder / _PICTURES]
        return cls(
            files,
            _columns(files, "score_"),
            _columns(files, "statistic_"),
            _column([folder / _DIVERSITY], "diversity"),
            read_summary(folder / _SUMMARY),
        )

    def pictures(self, indices: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """Read some of the pictures, counted in the prompts' order.

        Raises:
            WorkDirectoryError: a picture or its file is damaged.
        """
        pngs = read_columns(self.files, ["png"]).column("png").take(pa.array(indices)).to_pylist()
        places = [f"picture {index} of {self.files[0].parent}" for index in indices]
        pictures = [np.array(read_png(png, place, WorkDirectoryError)) for png, place in zip(pngs, places, strict=True)]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@torch.no_grad()
def measure(name: str, draw: Draw, evaluation: Evaluation, work_dir: Path, cost: DrawingCost) -> Parts:
    """Draw one picture of each prompt and several of a few; score the first, take `features` of the others.

    Every process does its share and returns when all are done. What `work_dir` holds already is not done again.
    """
    params, family, seed = evaluation.params, evaluation.family, evaluation.seed
    diversity, shape = params.diversity, family.latent_shape
    single = Requests.make(evaluation.prompts, evaluation.encoded, 1, shape, seed, "evaluation")
    few = evaluation.prompts[: diversity.num_prompts]
    repeated = Requests.make(few, evaluation.encoded, diversity.num_images_per_prompt, shape, seed, "diversity")

    def draw_part(requests: Requests) -> UInt8[Tensor, "b 3 h w"]:
        with cost.of(len(requests)), evaluation.accelerator.autocast():
            return draw_batch(draw, family, requests)

    def pictures(part: slice) -> pa.Table:
        return _picture_rows(draw_part(single[part]), single.prompts[part], evaluation)

    def features(part: slice) -> pa.Table:
        images = _unit(draw_part(repeated[part]), family)
        with evaluation.accelerator.autocast():
            return pa.table({"features": _vectors(evaluation.features.image_features(images))})

    size, accelerator = params.batch_size, evaluation.accelerator
    return Parts(
        in_parts(f"measure {name}", work_dir / name / "pictures", len(single), size, accelerator, pictures),
        in_parts(
            f"measure {name}'s diversity", work_dir / name / "diversity", len(repeated), size, accelerator, features
        ),
    )


def summarise(parts: Parts, evaluation: Evaluation) -> Measured:
    """Average what was measured over the pictures, as the protocol does."""
    params, labels = evaluation.params, evaluation.labels
    scores, statistics = _columns(parts.pictures, "score_"), _columns(parts.pictures, "statistic_")
    summary: dict[str, object] = {
        "rewards": {name: vars(estimate(params.protocol, scores[name], labels)) for name in params.rewards}
    }
    by_label = {name: estimate_by_label(scores[name], labels) for name in params.rewards}
    if any(labels):
        summary["by_label"] = {
            label: {name: vars(by_label[name][label]) for name in params.rewards}
            for label in by_label[params.rewards[0]]
        }
    if params.judge:
        summary["judge_accuracy"] = _mean(scores[params.judge])
    distances = pairwise_distance(_matrix(parts.diversity, "features"), params.diversity.num_images_per_prompt)
    summary["diversity"] = _mean(distances)
    summary |= {name: _mean(values) for name, values in statistics.items()}
    if evaluation.fid:
        inception = _matrix(parts.pictures, "inception")
        summary["fid"] = {
            "distance": evaluation.fid.distance(inception),
            "num_images": len(inception),
            "biased": len(inception) < NUM_FEATURES,
        }
    return Measured(parts.pictures, scores, statistics, distances, summary)


def _picture_rows(images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str], evaluation: Evaluation) -> pa.Table:
    unit = _unit(images, evaluation.family)
    columns: dict[str, object] = {"prompt": list(prompts), "png": [_png(image) for image in images]}
    with evaluation.accelerator.autocast():
        scores = {name: evaluation.scorers[name](unit, prompts) for name in evaluation.scored}
    columns |= {f"score_{name}": values.cpu().numpy() for name, values in scores.items()}
    statistics = picture_statistics(images.float() / 255)
    columns |= {f"statistic_{name}": values.numpy() for name, values in statistics.items()}
    if evaluation.fid:
        columns["inception"] = _vectors(evaluation.fid.features(images))
    return pa.table(columns)


def _vectors(matrix: Float[Tensor, "n d"]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.cpu().numpy().ravel()), matrix.shape[1])


def _matrix(files: Sequence[Path], column: str) -> Float[Tensor, "n d"]:
    chunks = read_columns(files, [column]).column(column).chunks
    return torch.cat([torch.tensor(chunk.flatten().to_numpy()).unflatten(0, (len(chunk), -1)) for chunk in chunks])


def _columns(files: Sequence[Path], prefix: str) -> dict[str, Float[Tensor, " n"]]:
    names = [name for name in pq.read_schema(files[0]).names if name.startswith(prefix)]
    return {name.removeprefix(prefix): _column(files, name) for name in names}


def _column(files: Sequence[Path], column: str) -> Float[Tensor, " n"]:
    return torch.tensor(read_columns(files, [column]).column(column).to_numpy())


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _unit(images: UInt8[Tensor, "b 3 h w"], family: Family) -> Float[Tensor, "b 3 h w"]:
    return images.to(family.device).float() / 255


def _png(image: UInt8[Tensor, "3 h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
