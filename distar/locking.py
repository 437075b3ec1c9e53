"""One process at a time: locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from distar.disk import full_disk_told
from distar.errors import WorkDirectoryError

_SECONDS_BETWEEN_TRIES = 0.2


def take_lock(path: Path) -> TextIO:
    """Take the lock at `path` and return it as a file: closing that, or the process's end, releases it.

    The lock is the operating system's (flock), so nothing is left to clean up after a kill.

    Raises:
        WorkDirectoryError: another process holds it; the message names that process.
        StorageError: the disk is full.
    """
    lock = _open(path)
    try:
        _try(lock)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise WorkDirectoryError(
            f"{path} is held by process {owner}; wait for it to end, or stop it (kill {owner}) and run again: "
            "it goes on from the last checkpoint"
        ) from None
    except BaseException:
        lock.close()
        raise
    return lock


def wait_for_lock(path: Path, wait: Callable[[float], object]) -> TextIO:
    """Take the lock at `path` as soon as it is free; meanwhile call `wait(seconds)`, which may raise to give up.

    Raises:
        StorageError: the disk is full.
    """
    lock = _open(path)
    try:
        while True:
            try:
                _try(lock)
            except BlockingIOError:
                wait(_SECONDS_BETWEEN_TRIES)
            else:
                return lock
    except BaseException:
        lock.close()
        raise


def _open(path: Path) -> TextIO:
    with full_disk_told(path, "the lock was not taken"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _try(lock: TextIO) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with full_disk_told(Path(lock.name), "the lock was not taken"):
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())  # at once: closing the file must have nothing left to write
