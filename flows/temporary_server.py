"""Prefect's temporary server, for a flow that runs where PREFECT_API_URL names none.

It is a child in a session of its own, so that Ctrl-C reaches the flow alone, which can then still report to it; and it
ends with the flow, however that ends. Prefect's own one does neither.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_HOME, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from distar.errors import ParameterError
from distar.processes import ending_with_us

if TYPE_CHECKING:
    from fastapi import FastAPI

_HOST = "127.0.0.1"
_PAUSE = 0.1
_SECONDS_TO_END = 5


def start_temporary_server() -> None:
    """Start the server, wait until it answers, and have this process and its children report to it.

    It asks for an authentication string that this process alone knows: it writes into the user's Prefect database,
    and any web page could otherwise talk to it.

    Raises:
        ParameterError: PREFECT_HOME cannot be written, or the server does not start; the message holds its last words.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ParameterError(
            f"PREFECT_HOME is {home}, where Prefect keeps its database, and cannot be written ({error.strerror}); name "
            "another folder"
        ) from error
    with socket.create_server((_HOST, 0)) as free:
        port = free.getsockname()[1]
    drawn = f"distar:{secrets.token_hex(16)}"
    os.environ.update(PREFECT_API_AUTH_STRING=drawn, PREFECT_SERVER_API_AUTH_STRING=drawn)
    command = ["-m", "uvicorn", "--factory", f"{__name__}:app", "--host", _HOST, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            ending_with_us(
                [sys.executable, *command, "--app-dir", str(Path(__file__).parents[1]), "--log-level", "error"]
            ),
            env=os.environ | {"PREFECT_UI_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        atexit.register(_end, server)
        url = f"http://{_HOST}:{port}/api"
        until = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        while not _answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > until:
                log.seek(0)
                said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                raise ParameterError(
                    f"Prefect's temporary server does not start (its data are in PREFECT_HOME, {home}); it says: "
                    f"{said[-1].strip() if said else 'nothing'}"
                )
            time.sleep(_PAUSE)
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()


def app() -> FastAPI:
    """Return the server's application, without its page and the services that only a lasting one needs."""
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True, final=True)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):  # noqa: S310  our own server's
            return True
    except OSError:
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
