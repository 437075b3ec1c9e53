"""The exponential moving average of the generator: what is evaluated and released."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distar.training.distribution import local


class ExponentialMovingAverage:
    """Average what of a module is trained: ema ← decay · ema + (1 − decay) · parameters.

    While few updates were made the decay is (1 + n) / (10 + n) if that is smaller, so that a short run
    is not an average of its start. Of a sharded module each process averages its shards.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._current = [local(p.detach()) for p in module.parameters() if p.requires_grad]
        self._averages = [tensor.clone() for tensor in self._current]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's current parameters."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self._averages, self._current, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the module be its average for a while; what is loaded into it meanwhile is the new average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, current in zip(self._averages, self._current, strict=True):
            kept = current.clone()
            current.copy_(average)
            average.copy_(kept)
