"""One process at a time: locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from distar.errors import WorkDirectoryError


def take_lock(path: Path) -> TextIO:
    """Take the lock at `path` and return it as a file: closing that, or the process's end, releases it.

    The lock is the operating system's (flock), so nothing is left to clean up after a kill.

    Raises:
        WorkDirectoryError: another process holds it; the message names that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise WorkDirectoryError(
            f"{path} is held by process {owner}; wait for it to end, or stop it (kill {owner}) and run again: "
            "it goes on from the last checkpoint"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
