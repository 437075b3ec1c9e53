"""What is watched during training, and when it is stopped: each failure mode has its figure here.

Training figures come from the updates themselves; probe figures from pictures of the averaged generator
on prompts and noise that stay the same for the whole run, against the reference's own pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from distar.diffusion.prompt import PromptEmbedding
from distar.errors import TrainingError
from distar.evaluation.metrics import pairwise_distance, picture_statistics
from distar.rewards.cosine import CosineReward
from distar.rewards.reward import Reward
from distar.training.distribution import local
from distar.training.params import MonitorParams

NUM_TIMESTEP_BINS = 4
IMAGES_PER_PROBE_PROMPT = 2

_MOVEMENT_SAMPLE = 2**20


class Interval:
    """Training figures summed on the device between two log lines; read once, at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._bin_sums = torch.zeros(NUM_TIMESTEP_BINS, device=self._device)
        self._bin_counts = torch.zeros(NUM_TIMESTEP_BINS, device=self._device)

    def add(self, values: dict[str, Float[Tensor, ""]]) -> None:
        """Take in the figures of one update."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_assistant_losses(
        self, losses: Float[Tensor, " b"], timestep: Int[Tensor, " b"], num_timesteps: int
    ) -> None:
        """Take in the assistant's losses on fresh samples, binned by time."""
        bins = timestep * NUM_TIMESTEP_BINS // num_timesteps
        self._bin_sums.index_add_(0, bins, losses)
        self._bin_counts.index_add_(0, bins, torch.ones_like(losses))

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Read the interval's means over all processes; this is where the host waits for the device."""
        ours = [total / self._counts[name] for name, total in self._sums.items()]
        shared = torch.stack([*ours, *self._bin_sums, *self._bin_counts])
        summed: Any = accelerator.reduce(shared, "sum")
        everyones, bin_sums, bin_counts = summed.split([len(ours), NUM_TIMESTEP_BINS, NUM_TIMESTEP_BINS])
        names = [*self._sums, *(f"assistant_loss_bin_{i}" for i in range(NUM_TIMESTEP_BINS))]
        means = dict(
            zip(names, torch.cat([everyones / accelerator.num_processes, bin_sums / bin_counts]).tolist(), strict=True)
        )
        if "reward_gradient" in means:
            means["reward_to_divergence"] = means["reward_gradient"] / max(means["divergence_gradient"], 1e-12)
        return means


class Movement:
    """How far a network moved since it was last asked, by a sample of what of it is trained.

    The first time, only what had a gradient that is not zero counts: until an adapter's B has left zero, its A has none
    and cannot move. From then on everything counts, so that a network that no gradient reaches is noticed.
    """

    def __init__(
        self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        self._name = name
        self._accelerator = accelerator
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._every = math.ceil(sum(local(parameter).numel() for parameter in self._trained) / _MOVEMENT_SAMPLE)
        self._before = self._sample()
        self._counts = torch.zeros_like(self._before, dtype=torch.bool)
        self._hook = optimizer.register_step_pre_hook(self._count_gradients)

    def figures(self) -> dict[str, float]:
        """Return ‖Δθ‖/‖θ‖ and the share of parameters that changed at all; 0 of a network that has no gradient."""
        now = self._sample()
        change = now - self._before
        sums = [change.square(), self._before.square(), change.ne(0).logical_and(self._counts).float(), self._counts]
        summed: Any = self._accelerator.reduce(torch.stack([values.sum() for values in sums]), "sum")
        moved, size, changed, count = summed.tolist()
        self._before = now
        self._hook.remove()
        self._counts = torch.ones_like(self._counts)
        return {f"{self._name}_relative_update": (moved / size) ** 0.5, f"{self._name}_moved": changed / max(count, 1)}

    def _sample(self) -> Float[Tensor, " n"]:
        return torch.cat([self._sample_of(parameter.detach()) for parameter in self._trained])

    def _sample_of(self, tensor: Tensor) -> Tensor:
        return local(tensor).flatten()[:: self._every]

    def _count_gradients(self, *_: object) -> None:
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._trained]
        self._counts |= torch.cat([self._sample_of(gradient).ne(0) for gradient in gradients])


def check_moved(figures: dict[str, float], params: MonitorParams, iteration: int) -> None:
    """Stop a run whose updates vanish in the rounding of the weights.

    Raises:
        TrainingError: naming the network.
    """
    for name, moved in figures.items():
        if name.endswith("_moved") and moved < params.min_moved:
            raise TrainingError(
                f"updates do nothing at iteration {iteration}: of the {name.removesuffix('_moved')}'s parameters "
                f"{moved:.1%} changed since the last log line, the limit is train.monitors.min_moved = "
                f"{params.min_moved:.1%}; raise its optimizer's learning_rate, or keep more precise weights"
            )


def check_finite(means: dict[str, float], iteration: int) -> None:
    """Stop at the first figure that is not finite; an empty time bin is not one.

    Raises:
        TrainingError: naming the figures.
    """
    broken = [n for n, v in means.items() if not math.isfinite(v) and not n.startswith("assistant_loss_bin_")]
    if broken:
        raise TrainingError(
            f"not finite at iteration {iteration}: {', '.join(broken)}. Nothing was saved since the last checkpoint, "
            "which is good: lower train.generator.optimizer.learning_rate or train.reward_scale, and run again"
        )


@dataclass(frozen=True)
class Probe:
    """Fixed prompts and noise on which pictures are compared throughout a run.

    `num_images_per_prompt` consecutive pictures share a prompt. `rewards` that are not trained stand on the CPU between
    two looks, and leave the device's memory to training. Decoder and rewards take `batch_size` pictures at once, and
    decoded pictures wait on the CPU: what a device must hold does not grow with the number of prompts.
    """

    prompts: tuple[str, ...]
    num_images_per_prompt: int
    batch_size: int
    decode: Callable[[Tensor], Tensor]
    rewards: dict[str, Reward]
    features: CosineReward

    def look(self, latents: Float[Tensor, "b c h w"]) -> dict[str, float]:
        """Measure the pictures that these latents decode to."""
        return {name: value.item() for name, value in self.figures(latents).items()}

    @torch.no_grad()
    def figures(self, latents: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, ""]]:
        """Measure as `look` does, and leave the figures on the device."""
        device, pictures, statistics = latents.device, [], []
        for start in range(0, len(latents), self.batch_size):
            part = slice(start, start + self.batch_size)
            images = self.decode(latents[part])
            statistics.append(picture_statistics(images))
            pictures.append((images.cpu(), self.prompts[part]))

        def in_parts(model: Reward, measure: Callable[[Tensor, Sequence[str]], Tensor]) -> Tensor:
            with _moved(model, device):
                return torch.cat([measure(images.to(device), prompts) for images, prompts in pictures])

        features = in_parts(self.features, lambda images, _: self.features.image_features(images))
        figures = {
            "latent_mean": latents.mean(),
            "latent_std": latents.std(),
            "latent_rms": latents.square().mean().sqrt(),
            "diversity": pairwise_distance(features, self.num_images_per_prompt).mean(),
            **{name: torch.cat([part[name] for part in statistics]).mean() for name in statistics[0]},
        }
        for name, reward in self.rewards.items():
            scores = in_parts(reward, reward)
            figures |= {f"reward_{name}": scores.mean(), f"reward_{name}_std": scores.std()}
        return figures


def draw_probe(
    draw: Callable[[Tensor, PromptEmbedding], Tensor],
    noise: Float[Tensor, "b c h w"],
    embedding: PromptEmbedding,
    batch_size: int,
    device: torch.device,
) -> Float[Tensor, "b c h w"]:
    """Draw the probe's latents on a device, `batch_size` at once; noise and embedding stay where they are."""
    latents = []
    for start in range(0, len(noise), batch_size):
        part = slice(start, start + batch_size)
        latents.append(draw(noise[part].to(device), embedding[part].to(device, torch.float32)))
    return torch.cat(latents)


@contextmanager
def _moved(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a module on a device for a while."""
    home = next((parameter.device for parameter in module.parameters()), device)
    if home == device:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


def check_probe(
    figures: dict[str, float],
    reference: dict[str, float],
    trained: Sequence[str],
    params: MonitorParams,
    iteration: int,
) -> None:
    """Stop a run whose latents or trained rewards have left the reference's range.

    Raises:
        TrainingError: saying which figure, its limit and what to lower.
    """
    ratio = figures["latent_rms"] / reference["latent_rms"]
    if not ratio <= params.max_latent_rms_ratio:
        raise TrainingError(
            f"latents ran away at iteration {iteration}: their root mean square is {ratio:.3g} × the reference's, the "
            f"limit is train.monitors.max_latent_rms_ratio = {params.max_latent_rms_ratio}; lower train.reward_scale "
            "(an unbounded reward outgrows the divergence, whose gradient is bounded)"
        )
    for name in trained:
        excess = (figures[f"reward_{name}"] - reference[f"reward_{name}"]) / max(reference[f"reward_{name}_std"], 1e-12)
        if not excess <= params.max_reward_excess:
            raise TrainingError(
                f"the reward {name!r} ran away at iteration {iteration}: it is {excess:.3g} standard deviations above "
                f"the reference's mean, the limit is train.monitors.max_reward_excess = {params.max_reward_excess}; "
                "lower train.reward_scale: pictures that score so are hacks, not preferred pictures"
            )
