"""What drawing costs: for a stage's record, never for hashed outputs."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch


class DrawingCost:
    """Time and memory that one process spends on drawing; scoring is left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._batches: list[tuple[int, float]] = []
        self._peak_bytes = 0

    @contextmanager
    def of(self, num_images: int) -> Iterator[None]:
        """Measure the drawing of one batch."""
        on_cuda = self._device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        start = time.perf_counter()
        yield
        if on_cuda:
            torch.cuda.synchronize(self._device)
        self._batches.append((num_images, time.perf_counter() - start))
        peak = torch.cuda.max_memory_allocated(self._device) if on_cuda else _max_resident_bytes()
        self._peak_bytes = max(self._peak_bytes, peak)

    def figures(self) -> dict[str, object]:
        """Return the median over the batches of seconds per picture, and the memory's peak.

        The median leaves the first batch's warming up out. On CUDA the memory is what tensors take on the device,
        elsewhere the largest resident size of the whole process. Pictures that an earlier, killed run left are
        not counted.
        """
        memory = "peak_cuda_bytes" if self._device.type == "cuda" else "max_resident_bytes"
        if not self._batches:
            return {"num_images": 0}
        return {
            "num_images": sum(count for count, _ in self._batches),
            "batch_size": max(count for count, _ in self._batches),
            "seconds_per_image": round(median(seconds / count for count, seconds in self._batches), 6),
            memory: self._peak_bytes,
        }


def _max_resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
