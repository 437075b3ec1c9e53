"""Locks on a full disk."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

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
