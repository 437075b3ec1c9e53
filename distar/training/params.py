"""Everything of training that changes results; nothing here computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distar.diffusion.generator import NoiseScale
from distar.divergences import Divergence

Guidance = Literal["in", "out"]
"""Where guidance enters: inside the reference's score ("in"), or as a reward of its own ("out")."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class OptimizerParams(_Strict):
    """AdamW, and the norm to which gradients are clipped."""

    learning_rate: float = Field(gt=0)
    betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    eps: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)


class GeneratorParams(_Strict):
    """The one-step generator: the network's integer timestep, its input scale, optimizer and average."""

    timestep: int = Field(ge=0)
    noise_scale: NoiseScale
    ema_decay: float = Field(ge=0, lt=1)
    optimizer: OptimizerParams


class AssistantParams(_Strict):
    """The assistant: updates before the first generator step, and K updates before each."""

    warmup_steps: int = Field(ge=0)
    steps_per_generator_step: int = Field(gt=0)
    optimizer: OptimizerParams


class TimestepRange(_Strict):
    """Diffusion times are drawn uniformly from [minimum, maximum)."""

    minimum: int = Field(ge=0)
    maximum: int = Field(gt=0)


class MonitorParams(_Strict):
    """When to look, and when to stop.

    A run stops if the probe's latents exceed `max_latent_rms_ratio` × the reference's root mean square, or if
    a trained reward exceeds the reference's mean by `max_reward_excess` of its standard deviations: a linear
    reward is unbounded, the divergence's gradient is not.
    """

    log_every: int = Field(gt=0)
    probe_every: int = Field(gt=0)
    num_probe_prompts: int = Field(gt=1)
    num_probe_reference_steps: int = Field(gt=0)
    max_latent_rms_ratio: float = Field(gt=1)
    max_reward_excess: float = Field(gt=0)


class TrainParams(_Strict):
    """Everything of Diff-Instruct* training that changes results.

    With `num_steps` 0 nothing is trained: the initial generator is evaluated and packaged as it is.
    """

    num_steps: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)
    precision: Literal["no", "bf16"]
    reward_scale: float = Field(ge=0)
    rewards: dict[str, float]
    held_out_rewards: list[str]
    guidance_scale: float
    guidance: Guidance
    divergence: Divergence
    timesteps: TimestepRange
    generator: GeneratorParams
    assistant: AssistantParams
    monitors: MonitorParams
    checkpoint_every: int = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> TrainParams:
        if self.timesteps.minimum >= self.timesteps.maximum:
            raise ValueError(
                f"timesteps.minimum {self.timesteps.minimum} is not below maximum {self.timesteps.maximum}"
            )
        if self.checkpoint_every % self.monitors.log_every:
            raise ValueError(
                f"checkpoint_every {self.checkpoint_every} is not a multiple of monitors.log_every "
                f"{self.monitors.log_every}"
            )
        if self.reward_scale > 0 and not self.rewards:
            raise ValueError(
                f"reward_scale is {self.reward_scale}, but rewards is empty: name one, or set the scale to 0"
            )
        return self
