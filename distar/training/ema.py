"""The exponential moving average of the generator: what is evaluated and released."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ExponentialMovingAverage(Generic[ModuleT]):
    """Average a module's parameters: ema ← decay · ema + (1 − decay) · parameters.

    While few updates were made the decay is (1 + n) / (10 + n) if that is smaller, so that a short run
    is not an average of its start.
    """

    def __init__(self, module: ModuleT, decay: float) -> None:
        self.module: ModuleT = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's current parameters."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages: list[Tensor] = list(self.module.parameters())
        currents: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(averages, currents, 1 - decay)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint must hold."""
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        """Take up where `state` was saved."""
        self.module.load_state_dict(state["module"])
        self.num_updates = state["num_updates"]
