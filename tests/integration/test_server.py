"""`make server` as a process: everything answers, a port in use is told, and nothing is left however it ends."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from distar.release.releases import release_ids
from distar.release.storage import open_store
from flows.server import PREFECT_PORT, S3_PORT, STORE
from tests.integration.prefect_server import process, wait_for
from tests.miniature import with_pipeline

IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "2"}  # or what is served asks a server that is gone for a minute


def of_server(project: Path) -> list[int]:
    """Return the processes whose environment names the server's folder."""
    marker = f"PREFECT_HOME={project / '.distar' / 'server' / 'prefect'}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_server(
    project: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_pipeline(project)
    log = tmp_path / "log"
    with ExitStack() as stack:
        for port in (PREFECT_PORT, S3_PORT):
            with suppress(OSError):  # in use already, which does as well
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        server = stack.enter_context(process(["flows.server"], project, log, IMPATIENT))
        wait_for("it is up", lambda: server.poll() is not None or "Ctrl-C" in log.read_text())
        assert server.poll() is None, log.read_text()
        assert log.read_text().count("is in use; taking") == 2
        assert len(of_server(project)) >= 3
        lines = (project / ".distar" / "server" / "environment").read_text().splitlines()
        for name, _, value in (line.partition("=") for line in lines):
            monkeypatch.setenv(name, value)
        assert release_ids(open_store(STORE)) == []
        os.kill(server.pid, number)
        assert server.wait(60) == (-number if number == signal.SIGKILL else 0)
        wait_for("all of it ends", lambda: not of_server(project))
