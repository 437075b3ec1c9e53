"""Locks: on a full disk, and on a file that is removed meanwhile."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import pytest

from distar.errors import WorkDirectoryError
from distar.locking import take_lock, wait_for_lock

TAKE = """
import os, sys
from pathlib import Path
from distar.errors import StorageError
from distar.locking import take_lock
before = os.listdir("/proc/self/fd")
try:
    take_lock(Path("work/lock"))
except StorageError as error:
    print(error)
    sys.exit(os.listdir("/proc/self/fd") != before)
sys.exit("the lock was taken")
"""


def test_a_full_disk_is_told_and_the_lock_file_closed(tmp_path: Path) -> None:
    """The operating system lets this process write no byte to a file, as a full disk would."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    command = [sys.executable, "-B", "-W", "error", "-c", TAKE]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 0, result.stderr
    assert "no space left to write work/lock" in result.stdout
    assert "free some and run again" in result.stdout


HAND_ON = """
import subprocess, sys, time
from pathlib import Path
from distar.locking import take_lock
lock = take_lock(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_lock_that_a_killed_process_handed_on_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HAND_ON, str(path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        child = int(first.stdout.readline())
        with pytest.raises(WorkDirectoryError, match=f"is held by process {first.pid}"):
            take_lock(path)
        first.kill()
    with pytest.raises(WorkDirectoryError, match=f"process {first.pid}, which took it, is not on this machine"):
        take_lock(path)
    os.kill(child, signal.SIGKILL)
    wait_for_lock(path, time.sleep).close()


def test_who_waited_for_a_lock_file_that_was_removed_locks_the_one_that_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = take_lock(path)

    def remove_it(_seconds: float) -> None:
        path.unlink()
        first.close()

    second = wait_for_lock(path, remove_it)
    assert os.path.samestat(os.fstat(second.fileno()), path.stat())
    second.close()


def test_a_lock_file_removed_after_it_was_opened_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    flock, removed = fcntl.flock, []

    def remove_first(lock: TextIO, operation: int) -> None:
        if not removed:
            path.unlink()
            removed.append(path)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = take_lock(path)
    with pytest.raises(WorkDirectoryError, match=f"held by process {os.getpid()}"):
        take_lock(path)
    lock.close()
