"""What is measured after training; nothing here computes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distar.model_files import ModelFiles

Protocol = Literal["hpsv2", "parti", "coco", "prompts"]
Backend = Literal["port", "official"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ReferenceSamplingParams(_Strict):
    """How the reference draws the pictures that the generator is compared with."""

    num_steps: int = Field(gt=0)
    guidance_scale: float


class DiversityParams(_Strict):
    """Per-prompt diversity: prompts, pictures of each, and the reward whose features measure distance."""

    num_prompts: int = Field(gt=0)
    num_images_per_prompt: int = Field(gt=1)
    features: str


class FIDParams(_Strict):
    """What the Fréchet Inception distance is measured against, and with.

    `statistics` holds one `.npz` with the mean `mu` and the covariance `sigma` of real pictures' features;
    `inception` holds one `.pth`, torch-fidelity's conversion of the TensorFlow network.
    """

    statistics: str
    inception: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The files that the distance needs."""
        return {
            "statistics": ModelFiles(self.statistics, ("*.npz",)),
            "inception": ModelFiles(self.inception, ("*.pth",)),
        }


class EvaluateParams(_Strict):
    """What is measured after training, on prompts that training never saw.

    `protocol` says what the prompt set is: `hpsv2` (its benchmark, four styles), `parti` (P2, by category), `coco`
    (captions) or `prompts` (any other). `backend` says whose code scores: the differentiable `port`, or the
    `official` package where a reward has one. `precision` is that of drawing and of the ports; the official packages
    and the Fréchet distance's network have their own.
    """

    protocol: Protocol
    backend: Backend
    precision: Literal["no", "bf16"]
    batch_size: int = Field(gt=0)
    rewards: list[str] = Field(min_length=1)
    compare_by: str
    judge: str | None
    reference: ReferenceSamplingParams
    diversity: DiversityParams
    fid: FIDParams | None
    num_grid_prompts: int = Field(gt=0)

    @model_validator(mode="after")
    def _compares_what_it_scores(self) -> EvaluateParams:
        if self.compare_by not in self.rewards:
            raise ValueError(f"compare_by: {self.compare_by!r} is not scored; `rewards` has {', '.join(self.rewards)}")
        return self
