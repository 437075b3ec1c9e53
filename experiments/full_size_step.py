"""Time and memory of one Diff-Instruct* iteration at the full size of a published model, with random weights.

    python experiments/full_size_step.py --latent-size 64

Networks, optimizer states and autocast are bf16, batch size 1; the reward is CLIP ViT-L/14 on decoded pictures. What is
resident is told after each part, and the most that was ever resident at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from distar.diffusion.families.published import published_component, published_configuration
from distar.diffusion.families.sd15 import StableDiffusion15
from distar.diffusion.prompt import PromptEmbedding
from distar.divergences import PseudoHuber
from distar.divergences.comparison import WeightingParams
from distar.rewards.preprocess import CLIP_MEAN, CLIP_STD, Normalise, crop_centre, resize_short_side
from distar.training.step import Batch, Objective, Trainable, assistant_step, generator_step

GIB = 2**30


def main() -> None:
    """Run the iteration and print its figures as JSON."""
    options = parser().parse_args()
    device, figures = torch.device(options.device), {}

    with measured("build", figures, device):
        family = build_family(device)
        generator, assistant = family.generator(625, "sigma", None), family.assistant()
        reward = build_reward(family, device)
    players = trainable(generator), trainable(assistant)
    batch = draw_batch(family, options.latent_size, device)
    objective = Objective(
        divergence=PseudoHuber(
            kind="pseudo_huber",
            space="x0",
            c=0.07,
            weighting=WeightingParams(alpha_power=0.0, sigma_power=0.0),
            path_term=False,
        ),
        reward=reward,
        reward_scale=1.0,
        guidance_scale=4.5,
        guidance="in",
    )
    for name in ("first", "second"):  # the optimizers make their states in the first
        with torch.autocast(device.type, torch.bfloat16):
            with measured(f"{name} assistant step", figures, device):
                assistant_step(players[1], players[0], batch, micro_batch_size=1)
            with measured(f"{name} generator step", figures, device):
                values = generator_step(players[0], players[1], family.reference(), batch, objective, 1, 1)
    figures["values"] = {name: value.item() for name, value in values.items()}
    print(json.dumps(figures, indent=2))


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--latent-size", type=int, default=64, help="height and width of the latents (64)")
    arguments.add_argument("--device", default="cpu")
    return arguments


def build_family(device: torch.device) -> StableDiffusion15:
    """Build the published networks with random weights in bf16, and an empty null prompt."""
    scheduler = {k: v for k, v in published_configuration("sd15")["scheduler"].items() if k != "_class_name"}
    hidden = published_configuration("sd15")["network"]["cross_attention_dim"]
    return StableDiffusion15(
        published_component("sd15", "network", "cpu").to(device, torch.bfloat16),
        published_component("sd15", "vae", "cpu").to(device, torch.bfloat16),
        DDIMScheduler(**scheduler),
        PromptEmbedding({"hidden_states": torch.zeros(1, 77, hidden, device=device)}),
    )


def build_reward(family: StableDiffusion15, device: torch.device) -> Any:
    """Build a reward of CLIPScore's cost: a CLIP ViT-L/14 with random weights, and a random prompt's features."""
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    model: Any = CLIPModel(CLIPConfig(vision_config=vision, projection_dim=768))
    model.to(device, torch.bfloat16).requires_grad_(False)
    normalise = Normalise(CLIP_MEAN, CLIP_STD).to(device)
    text = nn.functional.normalize(torch.randn(1, 768, device=device), dim=1)

    def reward(x0: Tensor, prompts: object) -> Tensor:
        pixels = normalise(crop_centre(resize_short_side(family.decode(x0).float(), 224), 224))
        features = model.get_image_features(pixel_values=pixels).pooler_output.float()
        return 100 * (nn.functional.normalize(features, dim=1) * text).sum(1)

    return reward


def trainable(module: Any) -> Trainable:
    """Give a network the profile's optimizer."""
    return Trainable(module, module, torch.optim.AdamW(module.parameters(), lr=1e-6, betas=(0.0, 0.999)), 10.0)


def draw_batch(family: StableDiffusion15, size: int, device: torch.device) -> Batch:
    """Draw one sample."""
    rng = torch.Generator().manual_seed(0)
    shape = (1, family.latent_shape[0], size, size)
    hidden = torch.randn(1, 77, family.network.config.cross_attention_dim, generator=rng)
    return Batch(
        ("a red star",),
        PromptEmbedding({"hidden_states": hidden.to(device)}),
        torch.randn(shape, generator=rng).to(device),
        torch.randn(shape, generator=rng).to(device),
        torch.tensor([500], device=device),
    )


@contextmanager
def measured(name: str, figures: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Take the seconds of a part, and what was resident: at its end, and at most so far."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        now, peak = pages * resource.getpagesize(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures[name] = {
        "seconds": round(time.perf_counter() - start, 1),
        "resident_gib": round(now / GIB, 2),
        "peak_gib": round(peak / GIB, 2),
    }
    print(name, figures[name], flush=True)


if __name__ == "__main__":
    main()
