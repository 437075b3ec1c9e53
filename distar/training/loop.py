"""The training loop: K assistant steps, one generator step, again and again; resumable to the bit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from distar.diffusion.assistant import Assistant
from distar.diffusion.families import Family
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.prompt import EncodedPrompts, PromptEmbedding
from distar.diffusion.reference import Reference, sample_ddim
from distar.progress import track
from distar.rewards.cosine import CosineReward
from distar.rewards.reward import Reward
from distar.seeding import generator as draws
from distar.training.checkpoint import WorkDirectory
from distar.training.ema import ExponentialMovingAverage
from distar.training.monitors import Interval, Probe, check_finite, check_probe
from distar.training.params import OptimizerParams, TrainParams
from distar.training.step import (
    Batch,
    Objective,
    RewardFunction,
    Trainable,
    assistant_step,
    generator_step,
)

_IMAGES_PER_PROBE_PROMPT = 2

Row = dict[str, float | int]
"""A line of a log: the iteration and what was measured."""


@dataclass(frozen=True)
class PromptData:
    """The training prompts and their embeddings, encoded once, kept on the CPU or on disk."""

    prompts: tuple[str, ...]
    embedding: EncodedPrompts


@dataclass(frozen=True)
class Trained:
    """The result: the averaged generator, the logs of updates and probes, the reference's figures on the probes."""

    generator: OneStepGenerator
    updates: list[Row]
    probes: list[Row]
    reference_figures: dict[str, float]


class Training:
    """One run: its networks, its optimizers, and where it stands.

    Args:
        params: how to train.
        seed: the run's seed; every draw derives from it.
        family: the reference family's components, on `accelerator.device`.
        generator: the initial one-step generator.
        data: training prompts with embeddings.
        rewards: every reward named by the parameters, on the device.
        diversity_features: the reward whose picture features measure diversity.
        accelerator: places and prepares; one process or many.
    """

    def __init__(
        self,
        params: TrainParams,
        seed: int,
        family: Family,
        generator: OneStepGenerator,
        data: PromptData,
        rewards: dict[str, Reward],
        diversity_features: CosineReward,
        accelerator: Accelerator,
    ) -> None:
        self.params = params
        self.seed = seed
        self.family = family
        self.data = data
        self.rewards = rewards
        self.accelerator = accelerator
        self.reference: Reference = family.reference()
        self.generator: Trainable[OneStepGenerator] = self._prepare(generator, params.generator.optimizer)
        self.assistant: Trainable[Assistant] = self._prepare(family.assistant(), params.assistant.optimizer)
        self.ema = ExponentialMovingAverage(generator, params.generator.ema_decay)
        self.objective = Objective(
            divergence=params.divergence,
            reward=self._reward_function(),
            reward_scale=params.reward_scale,
            guidance_scale=params.guidance_scale,
            guidance=params.guidance,
        )
        self.probe, self.probe_noise, self.probe_embedding = self._make_probe(diversity_features)
        self.reference_figures: dict[str, float] = {}
        self.iteration = 0
        self.updates: list[Row] = []
        self.probes: list[Row] = []

    @property
    def num_iterations(self) -> int:
        """Assistant warm-up and generator steps together."""
        return self.params.assistant.warmup_steps + self.params.num_steps

    def run(self, work_dir: WorkDirectory) -> Trained:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            TrainingError: a figure is not finite, or latents or rewards ran away.
            StorageError: a checkpoint could not be written.
        """
        params, warmup = self.params, self.params.assistant.warmup_steps
        state = work_dir.load(self.accelerator.device)
        if state is not None:
            self._load(state)
        else:
            self.reference_figures = self._look_at_reference()
            self._look()
        interval = Interval(self.accelerator.device)
        with track("train", self.num_iterations, completed=self.iteration) as progress:
            before = _flat(self.generator.module)
            while self.iteration < self.num_iterations:
                with self.accelerator.autocast():
                    if self.iteration < warmup:
                        self._assistant_update(f"assistant warm-up {self.iteration}", interval)
                    else:
                        for k in range(params.assistant.steps_per_generator_step):
                            self._assistant_update(f"assistant {self.iteration} {k}", interval)
                        interval.add(self._generator_update())
                self.iteration += 1
                if self.iteration % params.monitors.log_every == 0 or self.iteration == self.num_iterations:
                    after = _flat(self.generator.module)
                    self._log(interval, relative_update=((after - before).norm() / before.norm()).item())
                    before = after
                if self.iteration % params.monitors.probe_every == 0 or self.iteration == self.num_iterations:
                    self._look()
                due = self.iteration % params.checkpoint_every == 0 or self.iteration == self.num_iterations
                if due and self.accelerator.is_main_process:
                    work_dir.save(self.iteration, self._state())
                progress.advance(note=self._note())
        return Trained(self.ema.module, self.updates, self.probes, self.reference_figures)

    def _assistant_update(self, purpose: str, interval: Interval) -> None:
        batch = self._batch(purpose)
        losses, norm = assistant_step(self.assistant, self.generator, batch, self.params.micro_batch_size)
        interval.add({"assistant_loss": losses.mean(), "assistant_grad_norm": norm})
        interval.add_assistant_losses(losses, batch.timestep, self.reference.schedule.num_timesteps)

    def _generator_update(self) -> dict[str, Float[Tensor, ""]]:
        batch = self._batch(f"generator {self.iteration}")
        values = generator_step(
            self.generator, self.assistant, self.reference, batch, self.objective, self.params.micro_batch_size
        )
        self.ema.update(self.generator.module)
        return values

    def _batch(self, purpose: str) -> Batch:
        params, device = self.params, self.accelerator.device
        rng = draws(self.seed, purpose, rank=self.accelerator.process_index)
        index = torch.randint(len(self.data.prompts), (params.batch_size,), generator=rng)
        shape = (params.batch_size, *self.family.latent_shape)
        timesteps = params.timesteps
        return Batch(
            prompts=tuple(self.data.prompts[i] for i in index.tolist()),
            embedding=self.data.embedding[index].to(device, torch.float32),
            noise=torch.randn(shape, generator=rng).to(device),
            eps=torch.randn(shape, generator=rng).to(device),
            timestep=torch.randint(timesteps.minimum, timesteps.maximum, (params.batch_size,), generator=rng).to(
                device
            ),
        )

    def _prepare(self, module, optimizer_params: OptimizerParams) -> Trainable:
        forward, optimizer = self.accelerator.prepare(module, _optimizer(module, optimizer_params))
        return Trainable(module, forward, optimizer, optimizer_params.max_grad_norm)

    def _reward_function(self) -> RewardFunction | None:
        if self.params.reward_scale == 0:
            return None
        terms = [(weight, self.rewards[name]) for name, weight in self.params.rewards.items()]

        def reward(x0: Float[Tensor, "b c h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
            images = self.family.decode(x0)
            return torch.stack([weight * model(images, prompts) for weight, model in terms]).sum(0)

        return reward

    def _make_probe(self, features: CosineReward) -> tuple[Probe, Tensor, PromptEmbedding]:
        rng = draws(self.seed, "probe")
        chosen = torch.randperm(len(self.data.prompts), generator=rng)[: self.params.monitors.num_probe_prompts]
        index = chosen.repeat_interleave(_IMAGES_PER_PROBE_PROMPT)
        noise = torch.randn(len(index), *self.family.latent_shape, generator=rng)
        watched = {*self.params.rewards, *self.params.held_out_rewards}
        probe = Probe(
            prompts=tuple(self.data.prompts[i] for i in index.tolist()),
            num_images_per_prompt=_IMAGES_PER_PROBE_PROMPT,
            decode=self.family.decode,
            rewards={name: reward for name, reward in self.rewards.items() if name in watched},
            features=features.image_features,
        )
        device = self.accelerator.device
        return probe, noise.to(device), self.data.embedding[index].to(device, torch.float32)

    def _look_at_reference(self) -> dict[str, float]:
        scale, steps = self.params.guidance_scale, self.params.monitors.num_probe_reference_steps
        return self.probe.look(sample_ddim(self.reference, self.probe_noise, self.probe_embedding, steps, scale))

    @torch.no_grad()
    def _look(self) -> None:
        figures = self.probe.look(self.ema.module(self.probe_noise, self.probe_embedding))
        self.probes.append({"iteration": self.iteration, **figures})
        check_probe(figures, self.reference_figures, list(self.params.rewards), self.params.monitors, self.iteration)

    def _log(self, interval: Interval, relative_update: float) -> None:
        means = interval.means()
        check_finite(means, self.iteration)
        self.updates.append({"iteration": self.iteration, **means, "relative_update": relative_update})
        interval.reset()

    def _note(self) -> str:
        latest = {**(self.updates[-1] if self.updates else {})}
        if "reward" in latest:
            return f"reward {latest['reward']:.3f}"
        if self.probes and self.params.rewards:
            name = next(iter(self.params.rewards))
            return f"{name} {self.probes[-1][f'reward_{name}']:.3f}"
        return f"assistant loss {latest['assistant_loss']:.4f}" if latest else ""

    def _state(self) -> dict[str, object]:
        return {
            "generator": self.generator.module.state_dict(),
            "assistant": self.assistant.module.state_dict(),
            "ema": self.ema.state_dict(),
            "generator_optimizer": self.generator.optimizer.state_dict(),
            "assistant_optimizer": self.assistant.optimizer.state_dict(),
            "updates": self.updates,
            "probes": self.probes,
            "reference_figures": self.reference_figures,
        }

    def _load(self, state: dict) -> None:
        self.generator.module.load_state_dict(state["generator"])
        self.assistant.module.load_state_dict(state["assistant"])
        self.ema.load_state_dict(state["ema"])
        self.generator.optimizer.load_state_dict(state["generator_optimizer"])
        self.assistant.optimizer.load_state_dict(state["assistant_optimizer"])
        self.iteration = state["iteration"]
        self.updates = state["updates"]
        self.probes = state["probes"]
        self.reference_figures = state["reference_figures"]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write a log as CSV, one column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _optimizer(module: nn.Module, params: OptimizerParams) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        module.parameters(),
        lr=params.learning_rate,
        betas=(params.betas[0], params.betas[1]),
        eps=params.eps,
        weight_decay=params.weight_decay,
    )


def _flat(module: nn.Module) -> Float[Tensor, " n"]:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
