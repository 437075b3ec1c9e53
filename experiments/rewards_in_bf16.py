"""By how much bf16 moves the scores of HPSv2 and ImageReward, of their published sizes and with random weights.

    python experiments/rewards_in_bf16.py

Takes some gigabytes of memory and of the folder for temporary files, and minutes of two cores.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distar.bench.published import Encoder, RewardSize, save_hpsv2, save_image_reward
from distar.diffusion.networks import narrow_frozen
from distar.rewards.params import HPSv2, ImageReward

HPSV2 = RewardSize(Encoder(1280, 32, 16), 14, Encoder(1024, 24, 16))
IMAGE_REWARD = RewardSize(Encoder(1024, 24, 16), 16, Encoder(768, 12, 12))
PROMPTS = [f"a red star on a white background, {i}" for i in range(6)]


def main() -> None:
    """Score in both precisions, and print root mean squares."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        hpsv2, image_reward = Path(name) / "hpsv2", Path(name) / "image_reward"
        save_hpsv2(hpsv2, HPSV2)
        save_image_reward(image_reward, IMAGE_REWARD)
        rewards = {
            "hpsv2": HPSv2(kind="hpsv2", source="", version="2.1", antialias=True),
            "image_reward": ImageReward(kind="image_reward", source="", vocabulary=""),
        }
        moved = {kind: shift(reward, Path(name) / kind) for kind, reward in rewards.items()}
    print(json.dumps(moved, indent=2))


@torch.no_grad()
def shift(params: HPSv2 | ImageReward, folder: Path) -> dict[str, float]:
    """Return the root mean square of the scores' shift, and the standard deviation of the scores."""
    images = pictures()
    exact = params.build(folder)(images, PROMPTS)
    narrow = params.build(folder)  # a second one: the first has kept the prompts' features in fp32
    narrow_frozen(narrow, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = narrow(images, PROMPTS)
    difference = rounded - exact
    return {"rms": difference.square().mean().sqrt().item(), "deviation": exact.std().item()}


def pictures() -> Float[Tensor, "6 3 256 256"]:
    """Draw smooth colours, and put noise over half of them."""
    rng = torch.Generator().manual_seed(1)
    smooth = F.interpolate(torch.rand(6, 3, 8, 8, generator=rng), 256, mode="bicubic").clamp(0, 1)
    smooth[:3] = (smooth[:3] + torch.rand(3, 3, 256, 256, generator=rng)) / 2
    return smooth


if __name__ == "__main__":
    main()
