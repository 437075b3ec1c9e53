"""Seconds and bytes: how long parts take, turn by turn in one run, and how much memory tensors take at most."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from distar.progress import track


@dataclass(frozen=True)
class Part:
    """Something to be timed; `prepare` runs before each time, and is not timed."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def seconds_of(description: str, parts: Sequence[Part], rounds: int, device: torch.device) -> list[dict[str, float]]:
    """Time every part once a round, after one round that does not count; return the rounds.

    Turn by turn, so that whatever else the machine does meets all parts alike. Progress is shown under a description.
    """
    measured = []
    with track(description, rounds + 1) as progress:
        for _ in range(rounds + 1):
            seconds = {}
            for part in parts:
                part.prepare()
                wait_for(device)
                begun = time.perf_counter()
                part.run()
                wait_for(device)
                seconds[part.name] = time.perf_counter() - begun
            measured.append(seconds)
            progress.advance()
    return measured[1:]


def median_ratio(rounds: Sequence[dict[str, float]], over: Sequence[str], under: Sequence[str]) -> float:
    """Return the median over the rounds of one sum of parts over another."""
    return median(sum(one[name] for name in over) / sum(one[name] for name in under) for one in rounds)


def peak_bytes(
    run: Callable[[], object], modules: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> int:
    """Return the most that tensors take at once during a call: what it makes, the modules and the optimizers' states.

    On CUDA as the allocator counts it; elsewhere every tensor's storage is followed from its making to its end.
    """
    device = next(modules[0].parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with _LiveBytes() as live:
        for tensor in _tensors_of(modules, optimizers):
            live.follow(tensor)
        run()
        return live.peak


class _LiveBytes(TorchDispatchMode):
    """Follow the storage of every tensor that an operation returns, from there to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._followed = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, Tensor):
                self.follow(tensor)
        return returned

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        if storage not in self._followed:
            self._followed[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, num_bytes: int) -> None:
        self.now -= num_bytes


def _tensors_of(modules: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[Tensor]:
    for module in modules:
        yield from (*module.parameters(), *module.buffers())
    for optimizer in optimizers:
        yield from (value for state in optimizer.state.values() for value in state.values())


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
