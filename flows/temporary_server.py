"""A Prefect server for one flow: nobody else can talk to it, and it ends with this process."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_HOME, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, get_current_settings

from distar.errors import StorageError
from distar.processes import ending_with_us
from distar.secrets import without_secrets
from flows.commands import end_group

_HOST = "127.0.0.1"
# Takes over a socket that has its port already: no other process can come first.
_SERVER = """
import socket, sys, uvicorn
from prefect.server.api.server import create_app

app = create_app(ephemeral=True, final=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5))
server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
sys.exit(0 if server.started else 1)
"""


def start_temporary_server() -> None:
    """Start a Prefect server that this process, and what it starts, reports to from now on.

    Prefect would start one in this process's group: Ctrl-C would end it before the flow, which then waits for it for
    minutes, and it would outlive a flow that is killed. It asks for an authentication string that this process alone
    knows: it writes into the user's Prefect database, and any web page could otherwise talk to it.

    Raises:
        StorageError: its folder cannot be written, or it does not start.
    """
    _check_folder(PREFECT_HOME.value())
    drawn = f"distar:{secrets.token_hex(16)}"
    own = {**get_current_settings().to_environment_variables(exclude_unset=True), "PREFECT_API_AUTH_STRING": drawn}
    own["PREFECT_SERVER_API_AUTH_STRING"] = drawn
    with socket.socket() as taken, tempfile.TemporaryFile() as log:
        taken.bind((_HOST, 0))
        url = f"http://{_HOST}:{taken.getsockname()[1]}/api"
        process = subprocess.Popen(
            ending_with_us([sys.executable, "-P", "-c", _SERVER, str(taken.fileno())]),
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[taken.fileno()],
            start_new_session=True,
        )
        atexit.register(end_group, process)
        _wait_for(process, url, log)
    # it has no pages, so no run is to be looked up there
    os.environ.update(PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=drawn, PREFECT_UI_URL="")
    refresh_global_settings_context()


def _check_folder(home: Path) -> None:
    """Check that the server can write its database."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise StorageError(
            f"PREFECT_HOME is {home}, and Prefect's temporary server cannot write there ({error.strerror}); "
            "name a folder of yours: PREFECT_HOME=FOLDER"
        ) from error


def _wait_for(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    """Wait until the server is well."""
    deadline = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    while not _is_well(f"{url}/health"):
        if process.poll() is not None or time.monotonic() > deadline:
            database = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL")
            where = "; its database is that of PREFECT_SERVER_DATABASE_CONNECTION_URL" if database else ""
            raise StorageError(f"Prefect's temporary server did not start: {_reason(log)}{where}")
        time.sleep(0.05)


def _is_well(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310  our own server's
            return answer.status == HTTPStatus.OK
    except OSError:
        return False


def _reason(log: IO[bytes]) -> str:
    """Return the error that a server's log ends with."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if re.match(r"[\w.]+: ", line)]
    told = [line for line in lines if not line.startswith("ERROR:")]  # uvicorn's, which says that it ends
    return without_secrets(told[-1]) if told else "it told no error; run this again"
