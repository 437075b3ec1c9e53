"""Everything of training that changes results; nothing here computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distar.diffusion.params import Checkpointing, LoraParams, NoiseScale
from distar.divergences.params import DivergenceParams

Guidance = Literal["in", "out"]
"""Where guidance enters: inside the reference's score ("in"), or as a reward of its own ("out")."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class OptimizerParams(_Strict):
    """AdamW, and the norm to which gradients are clipped.

    `kind`: PyTorch's own, the same as one fused kernel (the last bits differ), or with its states in 8 bits, by
    bitsandbytes: 2 bytes a parameter in place of 8. The last takes no shards.
    """

    kind: Literal["adamw", "adamw_fused", "adamw_8bit"]
    learning_rate: float = Field(gt=0)
    betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    eps: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)


class GeneratorParams(_Strict):
    """The one-step generator: the network's integer timestep, its input scale, optimizer and average.

    With `lora`, adapters on its frozen initial weights are trained in place of the weights, and merged at the end.
    """

    timestep: int = Field(ge=0)
    noise_scale: NoiseScale
    ema_decay: float = Field(ge=0, lt=1)
    lora: LoraParams | None
    optimizer: OptimizerParams


class AssistantParams(_Strict):
    """The assistant: updates before the first generator step, and K updates before each.

    With `lora`, adapters on the reference's own weights are trained in place of a copy of them.
    """

    warmup_steps: int = Field(ge=0)
    steps_per_generator_step: int = Field(gt=0)
    lora: LoraParams | None
    optimizer: OptimizerParams


class TimestepRange(_Strict):
    """Diffusion times are drawn uniformly from [minimum, maximum)."""

    minimum: int = Field(ge=0)
    maximum: int = Field(gt=0)


class MonitorParams(_Strict):
    """When to look, and when to stop.

    A run stops if the probe's latents exceed `max_latent_rms_ratio` × the reference's root mean square, or if
    a trained reward exceeds the reference's mean by `max_reward_excess` of its standard deviations: a linear
    reward is unbounded, the divergence's gradient is not. It also stops if, between two log lines, less than the share
    `min_moved` of a trained network's parameters changed: updates are too small for the numbers that hold the weights.
    At the first line, what had no gradient yet is left out: half of each adapter has none at the first update.
    """

    log_every: int = Field(gt=0)
    probe_every: int = Field(gt=0)
    num_probe_prompts: int = Field(gt=1)
    num_probe_reference_steps: int = Field(gt=0)
    max_latent_rms_ratio: float = Field(gt=1)
    max_reward_excess: float = Field(gt=0)
    min_moved: float = Field(ge=0, le=1)


class TrainParams(_Strict):
    """Everything of Diff-Instruct* training that changes results.

    With `num_steps` 0 nothing is trained: the initial generator is evaluated and packaged as it is. `batch_size` counts
    the samples of an update on all processes together, `micro_batch_size` those that one process takes at once,
    and while the generator's graph of these is held, assistant and reference take `frozen_micro_batch_size` of them
    at once (the guided reference each twice, with its prompt and without), decoder and rewards
    `reward_micro_batch_size`. The probe between updates is cut in the same way.
    `gradient_checkpointing` computes activations again when they are needed, rather than keep them: those of the
    decoder, or of all networks; `channels_last` lays pictures out in memory as GPUs' convolutions read them, though
    not PyTorch's group norms, which turn them back; `compile` compiles the networks' transformer blocks, and leaves
    them as they are where that fails.
    """

    num_steps: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)
    frozen_micro_batch_size: int = Field(gt=0)
    reward_micro_batch_size: int = Field(gt=0)
    precision: Literal["no", "bf16"]
    gradient_checkpointing: Checkpointing
    channels_last: bool
    compile: bool
    reward_scale: float = Field(ge=0)
    rewards: dict[str, float]
    held_out_rewards: list[str]
    guidance_scale: float
    guidance: Guidance
    divergence: DivergenceParams
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
