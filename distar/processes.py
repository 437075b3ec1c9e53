"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Asks Linux to end the command with this process, however it ends, and becomes the command. It does so in the child's
# own interpreter: between fork and exec of a process with threads nothing may run.
_ENDING_WITH_US = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this command is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return the command that runs a command and has Linux end it (SIGTERM) with this process."""
    return [sys.executable, "-ISc", _ENDING_WITH_US, str(os.getpid()), *command]
