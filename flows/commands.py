"""Run a command as a process group of its own, so that nothing it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

from prefect.runtime import flow_run

from distar.lineage.record import runs_dir
from distar.processes import ending_with_us

_SECONDS_TO_END = 30.0


class CommandError(Exception):
    """A command ended with an error; the message holds its last lines."""


def stream(
    command: Sequence[str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command as `lines_of` does, and hand over each line that it prints.

    Raises:
        CommandError: the command's exit status is not 0.
    """
    with closing(lines_of(command, cwd, environment)) as lines:
        for line in lines:
            on_line(line)


def lines_of(
    command: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Generator[str, None, None]:
    """Run a command and yield each line that it prints; `python` in it is this interpreter.

    Whatever ends the command (it is done, it is killed and leaves what it had started) or the generator (it is closed;
    Ctrl-C and a flow's cancelling reach it here) ends the whole process group: first by SIGTERM, then by SIGKILL. If
    this process is killed outright, the command gets SIGTERM from Linux. `environment` is added to this process's own.

    Raises:
        CommandError: the command's exit status is not 0.
    """
    tail: list[str] = []
    process = subprocess.Popen(
        ending_with_us(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env=_environment() | dict(environment or {}),
    )
    assert process.stdout is not None  # noqa: S101  PIPE was asked for
    # beside the reading: what a killed command has left holds its output open
    Thread(target=_end_leftovers, args=[process], daemon=True).start()
    try:
        for line in process.stdout:
            tail = [*tail[-19:], line.rstrip()]
            yield line.rstrip()
        status = process.wait()
    finally:
        end_group(process)
        process.stdout.close()
    if status:
        raise CommandError(f"`{' '.join(command)}` ended with status {status}:\n" + "\n".join(tail))


def _environment() -> dict[str, str]:
    """Return this process's environment, and what a stage's record needs to know: the flow run, and where records go.

    Records go to this project's folder from a worktree too, which is gone when its run has ended.
    """
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DISTAR_RUNS_DIR": str(runs_dir().absolute()),
        "DISTAR_FLOW_RUN_ID": flow_run.id or "",
    }


def _end_leftovers(process: subprocess.Popen[Any]) -> None:
    process.wait()
    end_group(process)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process and what is left of its group: first by SIGTERM, then by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _SECONDS_TO_END
        signalled = number
        while time.monotonic() < deadline:
            process.poll()  # a group exists for as long as an ended member is not waited for
            try:
                os.killpg(process.pid, signalled)
            except ProcessLookupError:
                return
            signalled = 0
            time.sleep(0.02)
