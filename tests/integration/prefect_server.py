"""A real Prefect server and a served project, as processes; and what the tests ask of the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

T = TypeVar("T")

AUTH_STRING = "tester:tester-secret"

_SECONDS_TO_WAIT = 120.0


def wait_for(what: str, found: Callable[[], T | None], seconds: float = _SECONDS_TO_WAIT) -> T:
    """Ask until there is something, and return it."""
    deadline = time.monotonic() + seconds
    while not (got := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return got


def _heed_interrupts() -> None:
    """Take back what a shell's background jobs inherit: that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def process(command: Sequence[str], folder: Path, log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run a command as a process group of its own; end it at the end."""
    with (
        log.open("ab") as file,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509  no thread forks here
        ) as running,
    ):
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Start a Prefect server that asks for AUTH_STRING, and keeps everything in a folder; yield its API's URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    environment = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING}
    with process(command, folder, folder / "server.log", environment) as server:

        def answers() -> bool:
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                with urlopen(f"{url}/health") as answer:  # noqa: S310
                    return answer.status == 200
            except OSError:
                return False

        wait_for("the Prefect server answers", answers)
        yield url
