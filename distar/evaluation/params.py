"""What is measured after training; nothing here computes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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


class EvaluateParams(_Strict):
    """What is measured after training, on prompts that training never saw."""

    batch_size: int = Field(gt=0)
    rewards: list[str] = Field(min_length=1)
    compare_by: str
    judge: str | None
    reference: ReferenceSamplingParams
    diversity: DiversityParams
    num_grid_prompts: int = Field(gt=0)
