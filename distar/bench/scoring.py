"""How fast HPSv2 and ImageReward score beside the loops of their authors' packages, at equal scores."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import UInt8
from PIL.Image import Image
from torch import Tensor

from distar.bench.measure import Part, median_ratio, seconds_of
from distar.bench.published import (
    SMALL_HPSV2,
    SMALL_IMAGE_REWARD,
    Encoder,
    RewardSize,
    save_hpsv2,
    save_image_reward,
)
from distar.diffusion.networks import narrow_frozen
from distar.disk import full_disk_told
from distar.errors import BenchmarkError
from distar.rewards.official import OfficialHPSv2, OfficialImageReward, to_pictures
from distar.rewards.params import HPSV2_WEIGHTS, HPSv2, ImageReward
from distar.rewards.reward import Reward

_HPSV2, _IMAGE_REWARD = "hpsv2", "image_reward"
_LOOP, _BATCH, _BF16 = ", official loop", ", in batches", ", in batches and bf16"
# Pillow and torch resize ImageReward's pictures, and now and then round one value to neighbouring 8-bit levels.
_TOLERANCES = {_HPSV2: 1e-5, _IMAGE_REWARD: 5e-3}
_HALF_PRECISION = 5e-3  # on CUDA hpsv2's package computes its cosine in fp16, and the port in fp32
_BF16_TOLERANCES = {_HPSV2: 2e-2, _IMAGE_REWARD: 2e-2}


@dataclass(frozen=True)
class ScoringSubject:
    """What is scored, and by how large networks.

    Attributes:
        hpsv2: the size of HPSv2's network.
        image_reward: the size of ImageReward's.
        num_pictures: how many pictures there are.
        picture_size: their height and width in pixels.
        batch_size: how many of them a port scores at once.
    """

    hpsv2: RewardSize
    image_reward: RewardSize
    num_pictures: int
    picture_size: int
    batch_size: int


# Tiny networks, or the published widths at a quarter of the published depths.
SUBJECTS = {
    "tiny": ScoringSubject(SMALL_HPSV2, SMALL_IMAGE_REWARD, num_pictures=64, picture_size=64, batch_size=16),
    "sd15-100m": ScoringSubject(
        RewardSize(Encoder(1280, 8, 16), 14, Encoder(1024, 6, 16)),
        RewardSize(Encoder(1024, 6, 16), 16, Encoder(768, 3, 12)),
        num_pictures=4,
        picture_size=256,
        batch_size=4,
    ),
}


@dataclass(frozen=True)
class ScoringFigures:
    """How many times as fast as the official loops the ports score: same weights, pictures and prompts.

    Attributes:
        official_scoring_speedup: the time of both official loops over that of both ports.
        official_scoring_speedups: the same of each reward.
        largest_score_difference: between package and port, of each reward.
        bf16_scoring_speedup: the time of both official loops over that of both ports in bf16.
        bf16_scoring_speedups: the same of each reward.
        largest_bf16_difference: between package and port in bf16, of each reward.
        scoring_seconds: the median seconds that each takes for all pictures.
    """

    official_scoring_speedup: float
    official_scoring_speedups: dict[str, float]
    largest_score_difference: dict[str, float]
    bf16_scoring_speedup: float
    bf16_scoring_speedups: dict[str, float]
    largest_bf16_difference: dict[str, float]
    scoring_seconds: dict[str, float]


@torch.no_grad()
def measure_scoring(subject: ScoringSubject, rounds: int, device: torch.device) -> ScoringFigures:
    """Score random pictures with random weights: one by one as the packages do, and in batches.

    Raises:
        BenchmarkError: a port does not give its package's scores.
    """
    torch.manual_seed(0)
    size = (subject.num_pictures, 3, subject.picture_size, subject.picture_size)
    levels = torch.randint(0, 256, size, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages use what torch is to drop
        hpsv2, image_reward = Path(name) / _HPSV2, Path(name) / _IMAGE_REWARD
        with full_disk_told(Path(name), "nothing was measured"):
            save_hpsv2(hpsv2, subject.hpsv2)
            save_image_reward(image_reward, subject.image_reward)
        rewards = {
            _HPSV2: HPSv2(kind="hpsv2", source="", version="2.1", antialias=True),
            _IMAGE_REWARD: ImageReward(kind="image_reward", source="", vocabulary=""),
        }
        ways = {}
        for reward, params in rewards.items():
            exact, narrow = (params.build(Path(name) / reward).to(device) for _ in range(2))
            narrow_frozen(narrow, torch.bfloat16)
            ways[reward + _BATCH] = _in_batches(exact, levels, subject.batch_size, device, None)
            ways[reward + _BF16] = _in_batches(narrow, levels, subject.batch_size, device, torch.bfloat16)
        with _hpsv2_package(hpsv2, device) as score_hpsv2:
            ways[_HPSV2 + _LOOP] = _one_by_one(score_hpsv2, levels)
            ways[_IMAGE_REWARD + _LOOP] = _one_by_one(_image_reward_package(image_reward, device), levels)
            turns = (Part(reward + way, ways[reward + way]) for reward in rewards for way in (_LOOP, _BATCH, _BF16))
            timed = seconds_of("measure scoring", [*turns], rounds, device)

    def compare(way: str, tolerances: Mapping[str, float]) -> tuple[float, dict[str, float], dict[str, float]]:
        return (
            median_ratio(timed, [reward + _LOOP for reward in rewards], [reward + way for reward in rewards]),
            {reward: median_ratio(timed, [reward + _LOOP], [reward + way]) for reward in rewards},
            {
                reward: _difference(reward, ways[reward + _LOOP], ways[reward + way], tolerances[reward])
                for reward in rewards
            },
        )

    half = {_HPSV2: _HALF_PRECISION} if device.type == "cuda" else {}
    seconds = {name: median(one[name] for one in timed) for name in timed[0]}
    return ScoringFigures(*compare(_BATCH, _TOLERANCES | half), *compare(_BF16, _BF16_TOLERANCES), seconds)


class _Scorer:
    """A way to score the pictures; `scores` are those of all its calls.

    Each call has other prompts, because a port encodes a prompt once in its life.
    """

    def __init__(self, score: Callable[[Sequence[str]], Tensor], num_pictures: int) -> None:
        self.scores: list[Tensor] = []
        self._score, self._num_pictures = score, num_pictures

    def __call__(self) -> None:
        first = len(self.scores) * self._num_pictures
        prompts = [f"a red star on a white background, {first + i}" for i in range(self._num_pictures)]
        self.scores.append(self._score(prompts))


def _one_by_one(score: Callable[[Image, str], float], levels: UInt8[Tensor, "n 3 h w"]) -> _Scorer:
    pictures = to_pictures(levels / 255)
    return _Scorer(
        lambda prompts: torch.tensor([score(*pair) for pair in zip(pictures, prompts, strict=True)]), len(levels)
    )


def _in_batches(
    port: Reward,
    levels: UInt8[Tensor, "n 3 h w"],
    batch_size: int,
    device: torch.device,
    autocast: torch.dtype | None,
) -> _Scorer:
    parts = [slice(begin, begin + batch_size) for begin in range(0, len(levels), batch_size)]

    def score(prompts: Sequence[str]) -> Tensor:
        with torch.autocast(device.type, autocast, enabled=autocast is not None, cache_enabled=False):
            return torch.cat([port(levels[part].to(device).float() / 255, prompts[part]).cpu() for part in parts])

    return _Scorer(score, len(levels))


@contextmanager
def _hpsv2_package(folder: Path, device: torch.device) -> Iterator[Callable[[Image, str], float]]:
    """Give `hpsv2.score` a model where it would download one, and a folder other than one in the user's home.

    What is left is what its users pay: it reads the checkpoint at every call.
    """
    official = OfficialHPSv2(folder, "2.1").to(device)
    package: Any = importlib.import_module("hpsv2.img_score")
    root_path, checkpoint = package.root_path, str(folder / HPSV2_WEIGHTS["2.1"])
    package.root_path = str(folder)
    package.model_dict.update(model=official.model, preprocess_val=official.preprocess)
    try:
        yield lambda picture, prompt: float(package.score(picture, prompt, cp=checkpoint)[0])
    finally:
        package.root_path = root_path
        package.model_dict.clear()


def _image_reward_package(folder: Path, device: torch.device) -> Callable[[Image, str], float]:
    model = OfficialImageReward(folder).model.to(device)
    model.device = device
    return lambda picture, prompt: model.score(prompt, picture)


def _difference(reward: str, loop: _Scorer, batch: _Scorer, tolerance: float) -> float:
    largest = (torch.cat(loop.scores) - torch.cat(batch.scores)).abs().max().item()
    if not largest <= tolerance:
        raise BenchmarkError(
            f"{reward}: the project's score differs from the official package's by {largest:.1e}, expected at most "
            f"{tolerance:.0e}, and how fast another score is says nothing; install what requirements/lock.txt pins"
        )
    return largest
