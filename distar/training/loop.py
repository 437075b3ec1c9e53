"""The training loop: K assistant steps, one generator step, again and again; resumable to the bit."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from distar.diffusion.assistant import Assistant
from distar.diffusion.families.family import Family
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.networks import (
    checkpoint_activations,
    checkpoint_decoder,
    compile_blocks,
    narrow_frozen,
    narrow_norms,
    repeated_blocks,
)
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference, sample_ddim
from distar.errors import ParameterError
from distar.progress import track
from distar.rewards.cosine import CosineReward
from distar.rewards.reward import Reward
from distar.seeding import generator as draws
from distar.training.checkpoint import WorkDirectory
from distar.training.distribution import (
    distribute,
    from_first,
    is_sharded,
    load_whole_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)
from distar.training.draws import Draws, PromptData, ahead
from distar.training.ema import ExponentialMovingAverage
from distar.training.monitors import (
    IMAGES_PER_PROBE_PROMPT,
    Interval,
    Movement,
    Probe,
    check_finite,
    check_moved,
    check_probe,
    draw_probe,
)
from distar.training.optimizer import build_optimizer
from distar.training.params import AssistantParams, GeneratorParams, TrainParams
from distar.training.step import (
    Batch,
    Objective,
    RewardFunction,
    Trainable,
    assistant_step,
    generator_step,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

Row = dict[str, float | int]
"""A line of a log: the iteration and what was measured."""


@dataclass(frozen=True)
class Trained:
    """The result: what of the generator was trained, averaged; logs of updates and probes; the reference's figures.

    `state` is on the first process alone, by the names of the generator's parameters.
    """

    state: dict[str, Tensor]
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
        assistant: the initial assistant.
        data: training prompts with embeddings.
        rewards: the rewards that are trained, on the device; on the first process also those that are held out.
        diversity_features: the reward whose picture features measure diversity; needed on the first process alone.
        accelerator: places; one process or many.

    Raises:
        ParameterError: the processes cannot share a batch, or train in shards what cannot be cut.
    """

    def __init__(
        self,
        params: TrainParams,
        seed: int,
        family: Family,
        generator: OneStepGenerator,
        assistant: Assistant,
        data: PromptData,
        rewards: dict[str, Reward],
        diversity_features: CosineReward | None,
        accelerator: Accelerator,
    ) -> None:
        self.params = params
        self.seed = seed
        self.family = family
        self.rewards = rewards
        self.accelerator = accelerator
        self.draws = Draws(params, seed, data, family.latent_shape, accelerator)
        self._arrange(generator, assistant)
        self.reference: Reference = family.reference()
        self.generator = self._trainable(generator, generator.denoiser.network, params.generator)
        self.assistant = self._trainable(assistant, assistant.network, params.assistant)
        self.ema = ExponentialMovingAverage(generator, params.generator.ema_decay)
        self.objective = Objective(
            divergence=params.divergence.build(),
            reward=self._reward_function(),
            reward_scale=params.reward_scale,
            guidance_scale=params.guidance_scale,
            guidance=params.guidance,
        )
        self.probe, self.probe_noise, self.probe_embedding = self._make_probe(data, diversity_features)
        self.reference_figures: dict[str, float] = {}
        self.iteration = 0
        self.updates: list[Row] = []
        self.probes: list[Row] = []

    @property
    def num_iterations(self) -> int:
        """Assistant warm-up and generator steps together."""
        return self.params.assistant.warmup_steps + self.params.num_steps

    def run(self, work_dir: WorkDirectory | None) -> Trained:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            work_dir: where checkpoints are; the first process's alone.

        Raises:
            TrainingError: a figure is not finite, latents or rewards ran away, or updates do nothing.
            StorageError: a checkpoint could not be written.
        """
        params, warmup = self.params, self.params.assistant.warmup_steps
        if not self._resumed(work_dir):
            self._look_at_reference()
            self._look()
        interval = Interval(self.accelerator.device)
        movements = {
            name: Movement(name, player.module, player.optimizer, self.accelerator)
            for name, player in (("generator", self.generator), ("assistant", self.assistant))
        }
        batches = ahead(self.draws, self._purposes())
        with track("train", self.num_iterations, completed=self.iteration) as progress:
            while self.iteration < self.num_iterations:
                with self.accelerator.autocast():
                    if self.iteration < warmup:
                        self._assistant_update(next(batches), interval)
                    else:
                        for _ in range(params.assistant.steps_per_generator_step):
                            self._assistant_update(next(batches), interval)
                        interval.add(self._generator_update(next(batches)))
                self.iteration += 1
                last = self.iteration == self.num_iterations
                if self.iteration % params.monitors.log_every == 0 or last:
                    self._log(interval, movements)
                if self.iteration % params.monitors.probe_every == 0 or last:
                    self._look()
                if self.iteration % params.checkpoint_every == 0 or last:
                    self._save(work_dir)
                progress.advance(note=self._note())
        return Trained(self._average(), self.updates, self.probes, self.reference_figures)

    def _purposes(self) -> Iterator[str]:
        """Name what is drawn from here to the end: fresh samples for every update, none shared between two."""
        for iteration in range(self.iteration, self.num_iterations):
            if iteration < self.params.assistant.warmup_steps:
                yield f"assistant warm-up {iteration}"
            else:
                for k in range(self.params.assistant.steps_per_generator_step):
                    yield f"assistant {iteration} {k}"
                yield f"generator {iteration}"

    def _assistant_update(self, batch: Batch, interval: Interval) -> None:
        losses, norm = assistant_step(self.assistant, self.generator, batch, self.params.micro_batch_size)
        interval.add({"assistant_loss": losses.mean(), "assistant_grad_norm": norm})
        interval.add_assistant_losses(losses, batch.timestep, self.reference.schedule.num_timesteps)

    def _generator_update(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        values = generator_step(
            self.generator,
            self.assistant,
            self.reference,
            batch,
            self.objective,
            self.params.micro_batch_size,
            self.params.frozen_micro_batch_size,
            self.params.reward_micro_batch_size,
        )
        self.ema.update()
        return values

    def _arrange(self, generator: OneStepGenerator, assistant: Assistant) -> None:
        """Keep and run the networks as the parameters say."""
        family, params = self.family, self.params
        networks = [family.network, generator.denoiser.network, assistant.network]
        if params.precision == "bf16":
            for module in (*networks, *(self.rewards[name] for name in params.rewards)):
                narrow_frozen(module, torch.bfloat16)
            for network in (*networks, family.autoencoder):
                narrow_norms(network)
        if params.channels_last:
            for network in (*networks, family.autoencoder):
                network.to(memory_format=torch.channels_last)
        if params.gradient_checkpointing != "none":
            checkpoint_decoder(family.autoencoder)
        if params.gradient_checkpointing == "all":
            for network in networks:
                checkpoint_activations(network)
        if params.compile:
            for network in networks:
                compile_blocks(network)

    def _trainable(
        self, module: ModuleT, network: nn.Module, params: GeneratorParams | AssistantParams
    ) -> Trainable[ModuleT]:
        if is_sharded(self.accelerator) and (params.lora or params.optimizer.kind == "adamw_8bit"):
            raise ParameterError(
                "LoRA and adamw_8bit train whole networks, and this launch shards them (fsdp_config); launch without, "
                "or set lora to null and optimizer.kind to adamw"
            )
        forward = distribute(module, repeated_blocks(network), self.accelerator)
        optimizer = build_optimizer(module.parameters(), params.optimizer)
        return Trainable(module, forward, optimizer, params.optimizer.max_grad_norm)

    def _reward_function(self) -> RewardFunction | None:
        if self.params.reward_scale == 0:
            return None
        terms = [(weight, self.rewards[name]) for name, weight in self.params.rewards.items()]

        def reward(x0: Float[Tensor, "b c h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
            images = self.family.decode(x0)
            return torch.stack([weight * model(images, prompts) for weight, model in terms]).sum(0)

        return reward

    def _make_probe(
        self, data: PromptData, features: CosineReward | None
    ) -> tuple[Probe | None, Tensor, PromptEmbedding]:
        rng = draws(self.seed, "probe")
        chosen = torch.randperm(len(data.prompts), generator=rng)[: self.params.monitors.num_probe_prompts]
        index = chosen.repeat_interleave(IMAGES_PER_PROBE_PROMPT)
        drawn = torch.randn(len(index), *self.family.latent_shape, generator=rng), data.embedding[index]
        if features is None:
            return None, *drawn
        watched = {*self.params.rewards, *self.params.held_out_rewards}
        probe = Probe(
            prompts=tuple(data.prompts[i] for i in index.tolist()),
            num_images_per_prompt=IMAGES_PER_PROBE_PROMPT,
            batch_size=self.params.reward_micro_batch_size,
            decode=self.family.decode,
            rewards={name: reward for name, reward in self.rewards.items() if name in watched},
            features=features,
        )
        return probe, *drawn

    def _look_at_reference(self) -> None:
        scale, steps = self.params.guidance_scale, self.params.monitors.num_probe_reference_steps
        if self.probe is not None:
            with self.accelerator.autocast():
                latents = draw_probe(
                    lambda noise, prompt: sample_ddim(self.reference, noise, prompt, steps, scale),
                    self.probe_noise,
                    self.probe_embedding,
                    self.params.frozen_micro_batch_size,
                    self.accelerator.device,
                )
                self.reference_figures = self.probe.look(latents)
        self.reference_figures = from_first(self.reference_figures)

    @torch.no_grad()
    def _look(self) -> None:
        with self.accelerator.autocast(), self.ema.in_place():
            latents = draw_probe(
                self.generator.module,
                self.probe_noise,
                self.probe_embedding,
                self.params.micro_batch_size,
                self.accelerator.device,
            )
            figures = from_first(self.probe.look(latents) if self.probe is not None else {})
        self.probes.append({"iteration": self.iteration, **figures})
        check_probe(figures, self.reference_figures, list(self.params.rewards), self.params.monitors, self.iteration)

    def _log(self, interval: Interval, movements: dict[str, Movement]) -> None:
        means = interval.means(self.accelerator)
        check_finite(means, self.iteration)
        moved = movements["assistant"].figures()
        if self.iteration > self.params.assistant.warmup_steps:
            moved |= movements["generator"].figures()
        check_moved(moved, self.params.monitors, self.iteration)
        self.updates.append({"iteration": self.iteration, **means, **moved})
        interval.reset()

    def _note(self) -> str:
        latest = {**(self.updates[-1] if self.updates else {})}
        if "reward" in latest:
            return f"reward {latest['reward']:.3f}"
        if self.probes and self.params.rewards:
            name = next(iter(self.params.rewards))
            return f"{name} {self.probes[-1][f'reward_{name}']:.3f}"
        return f"assistant loss {latest['assistant_loss']:.4f}" if latest else ""

    def _average(self) -> dict[str, Tensor]:
        with self.ema.in_place():
            return {name: tensor.clone() for name, tensor in whole_state(self.generator.module).items()}

    def _save(self, work_dir: WorkDirectory | None) -> None:
        players = {"generator": self.generator, "assistant": self.assistant}
        weights = {name: whole_state(player.module) for name, player in players.items()}
        optimizers = {name: whole_optimizer_state(one.module, one.optimizer) for name, one in players.items()}
        state = {"weights": weights, "average": self._average(), "optimizers": optimizers, "logs": self._logs()}
        if work_dir is not None:
            work_dir.save(self.iteration, state)

    def _logs(self) -> dict[str, Any]:
        return {
            "num_averaged": self.ema.num_updates,
            "updates": self.updates,
            "probes": self.probes,
            "reference_figures": self.reference_figures,
        }

    def _resumed(self, work_dir: WorkDirectory | None) -> bool:
        """Go on from the newest checkpoint, whatever the number of processes was; say whether there is one."""
        state = work_dir.load("cpu") if work_dir is not None else None
        iteration, logs = from_first((state["iteration"], state["logs"]) if state is not None else (0, None))
        if logs is None:
            return False
        state = state or {"average": {}, "weights": {}, "optimizers": {}}
        with self.ema.in_place():
            load_whole_state(self.generator.module, state["average"])
        for name, player in (("generator", self.generator), ("assistant", self.assistant)):
            load_whole_state(player.module, state["weights"].get(name, {}))
            load_whole_optimizer_state(player.module, player.optimizer, state["optimizers"].get(name, {}))
        self.iteration = iteration
        self.ema.num_updates = logs["num_averaged"]
        self.updates, self.probes = logs["updates"], logs["probes"]
        self.reference_figures = logs["reference_figures"]
        return True


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write a log as CSV, one column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
