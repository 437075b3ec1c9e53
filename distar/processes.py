"""How processes end: with the one that started them, or without taking their libraries apart."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

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


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM leave the body by SystemExit, so that what it made is taken back.

    Whoever handles SIGTERM already, as Prefect does in a flow, goes on doing so; threads are not told of signals.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_process(status: int) -> NoReturn:
    """End this process with a status; what was registered to be done at the end is done.

    Python would free object by object what the system frees at once: of torch and its libraries, most of a second.
    With nowhere left to write what is still to be written, the status is 1 if it was 0.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # the process was started with it closed
                stream.flush()
        except OSError as error:
            status = status or 1
            if stream is sys.stdout:
                print(f"standard output cannot be written: {error.strerror}", file=sys.stderr)
    os._exit(status)
