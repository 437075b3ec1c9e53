"""Several files at once: bytes counted together, and all stopped when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from distar.progress import Tracker, track

NUM_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Raised in a thread when another one's work has failed; never leaves `in_parallel`."""


class Work:
    """What the threads share: a count of bytes, and the news that one of them failed."""

    def __init__(self, progress: Tracker) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def count(self, num_bytes: int) -> None:
        """Count bytes as done, or raise `StoppedError`."""
        self.wait(0.0)
        with self._lock:
            self._progress.advance(num_bytes)

    def wait(self, seconds: float) -> None:
        """Wait, or raise `StoppedError`."""
        if self._stop.wait(seconds):
            raise StoppedError

    def stop(self) -> None:
        """Make every further `count` and `wait` raise."""
        self._stop.set()


def in_parallel(
    task: Callable[[Item, Work], Result],
    items: Sequence[Item],
    description: str,
    total_bytes: int,
    completed_bytes: int = 0,
) -> list[Result]:
    """Carry out `task(item, work)` for all items, in threads; the first error stops them all and is raised."""
    with (
        track(description, total_bytes, completed_bytes, in_bytes=True) as progress,
        ThreadPoolExecutor(NUM_THREADS) as pool,
    ):
        work = Work(progress)
        try:  # from the first thread on: an interrupt that is missed here waits for whole downloads
            futures = [pool.submit(task, item, work) for item in items]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            work.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
