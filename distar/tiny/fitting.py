"""Fit one small model: the plain supervised loop behind every model of the tiny world, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distar.progress import track
from distar.training.checkpoint import save_checkpoint

ModelT = TypeVar("ModelT", bound=nn.Module)

_STEPS_BETWEEN_CHECKPOINTS = 200
_WARMUP_STEPS = 100


class FitParams(BaseModel):
    """How long and how fast to fit."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    num_steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    ema_decay: float = Field(ge=0, lt=1)


def fit(
    name: str,
    model: ModelT,
    loss_at: Callable[[ModelT, int], Tensor],
    params: FitParams,
    work_dir: Path,
) -> ModelT:
    """Minimise `loss_at(model, step)` with AdamW and a cosine decay; return the averaged model in eval mode.

    A checkpoint in `work_dir` is taken up where it stands. `loss_at` must derive its random numbers
    from the step, so that a resumed fit equals an uninterrupted one.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(params.ema_decay))
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=0.01)
    checkpoint_path = work_dir / f"{name}.pt"
    first = 0
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    smoothed = float("nan")
    with track(name, params.num_steps, completed=first) as progress:
        for step in range(first, params.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = params.learning_rate * _schedule(step, params.num_steps)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_at(model, step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            optimizer.step()
            averaged.update_parameters(model)
            value = loss.item()
            smoothed = value if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * value
            progress.advance(note=f"loss {smoothed:.4f}")
            if (step + 1) % _STEPS_BETWEEN_CHECKPOINTS == 0 or step + 1 == params.num_steps:
                save_checkpoint(
                    {
                        "step": step + 1,
                        "model": model.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                    checkpoint_path,
                )
    return cast("ModelT", averaged.module).eval()


def _schedule(step: int, num_steps: int) -> float:
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))
