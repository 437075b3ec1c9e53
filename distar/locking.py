"""One process at a time: locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    try:
        return _take(path)
    except BlockingIOError:
        with _open(path) as lock:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
        if _is_gone(owner):
            raise WorkDirectoryError(
                f"{path}: process {owner}, which took it, is not on this machine any longer, but something that it "
                "started still holds it; run again in a minute"
            ) from None
        raise WorkDirectoryError(
            f"{path} is held by process {owner}; wait for it to end, or stop it (kill {owner}) and run again: what it "
            "saved is kept"
        ) from None


def wait_for_lock(path: Path, wait: Callable[[float], object]) -> TextIO:
    """Take the lock at `path` as soon as it is free; meanwhile call `wait(seconds)`, which may raise to give up.

    Raises:
        StorageError: the disk is full.
    """
    while True:
        try:
            return _take(path)
        except BlockingIOError:
            wait(_SECONDS_BETWEEN_TRIES)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder during the body, if it can be had, and yield whether it is held.

    It cannot be had while another process holds it, nor if it is gone or another user's, nor on a file system without
    locks. Other than `take_lock` it changes nothing at `path`.
    """
    descriptor, held = None, False
    with suppress(OSError):  # one of these: the answer is no
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # some systems lock no read-only file
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    try:
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(path: Path) -> TextIO:
    """Lock the file that stands at `path`: not one that was removed as stale between being opened and locked."""
    while True:
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands_at(path, lock):
                with full_disk_told(path, "the lock was not taken"):
                    os.ftruncate(lock.fileno(), 0)
                    os.write(lock.fileno(), str(os.getpid()).encode())  # at once: closing must have nothing to write
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _open(path: Path) -> TextIO:
    with full_disk_told(path, "the lock was not taken"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _is_gone(owner: str) -> bool:
    """Tell whether an owner, a process's number, is no process of this machine."""
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):  # nobody's number, or another user's process
        return False
    return False


def _stands_at(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False
