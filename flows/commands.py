"""Run a command as a process group of its own, so that nothing it started outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from prefect.runtime import flow_run

from distar.errors import DistarError
from distar.git import environment as for_children
from distar.lineage.record import runs_dir
from distar.processes import ending_with_us
from distar.secrets import lines_without_secrets

_SECONDS_TO_END = 30.0


class CommandError(DistarError):
    """A command ended with an error; the message holds its last lines."""


def stream(
    command: Sequence[str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, and hand over each line that it prints.

    Raises:
        CommandError: the command's exit status is not 0.
    """
    with closing(Command(command, cwd, environment)) as running:
        for line in running.lines:
            on_line(line)


class Command:
    """A command that runs from now on; `python` in it is this interpreter.

    Whatever ends it (it is done, it is killed and leaves what it had started, or it is closed: Ctrl-C and a flow's
    cancelling come to that) ends its whole process group: first by SIGTERM, then by SIGKILL. If this process is killed
    outright, the command gets SIGTERM from Linux.

    Args:
        command: its words.
        cwd: the folder that it runs in.
        environment: what is added to this process's own.
        waits: whether it waits for a line, of more environment variables as JSON, before it begins.

    Attributes:
        lines: what it prints, line by line, without secrets; after the last, CommandError is raised if its exit status
            is not 0.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self._command = command
        self._process = subprocess.Popen(
            ending_with_us(command),
            stdin=subprocess.PIPE if waits else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=cwd,
            env={**for_children(cwd), **_environment(), **(environment or {})},
        )
        # beside the reading: what a killed command has left holds its output open
        Thread(target=_end_leftovers, args=[self._process], daemon=True).start()
        self.lines = self._read()

    def begin(self) -> None:
        """Let a command that waits begin, once; it may have started before the flow run that it is part of."""
        told = self._process.stdin
        if told is not None and not told.closed:
            with suppress(BrokenPipeError):  # it has ended, and its lines say why
                told.write(f"{json.dumps(_environment())}\n")
                told.close()

    def close(self) -> None:
        """End it, if it runs."""
        end_group(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> Iterator[str]:
        assert self._process.stdout is not None  # noqa: S101  PIPE was asked for
        tail: list[str] = []
        try:
            for line in lines_without_secrets(line.rstrip() for line in self._process.stdout):
                tail = [*tail[-19:], line]
                yield line
            status = self._process.wait()
        finally:
            self.close()
        if status:
            raise CommandError(f"`{' '.join(self._command)}` ended with status {status}:\n" + "\n".join(tail))


def _environment() -> dict[str, str]:
    """Return what a stage's record needs to know: the flow run, and where records go; and where `python` is found.

    Records go to this project's folder from a worktree too, which is gone when its run has ended.
    """
    return {
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
