"""Prefect's temporary server: it outlives Ctrl-C, ends with the flow, and says in a line why it does not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.exit_status import exit_status
from tests.flow.test_kill import wait_for
from tests.miniature import REPOSITORY

PROGRAM = """
import os, time
from flows.events import check_server
check_server()
print(os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"], flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(600)
"""


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@contextmanager
def flow_with_server(home: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start a process with a temporary server; yield it, and the server's URL and authentication string."""
    flow = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert flow.stdout is not None
        url, drawn = flow.stdout.readline().split()
        yield flow, url, drawn
    finally:
        flow.kill()
        flow.communicate()


def answer(url: str, drawn: str = "") -> int | None:
    """Ask the server for its flows; return the answer's status, None if nobody answers."""
    user = httpx.BasicAuth(*drawn.split(":")) if drawn else None
    try:
        return httpx.post(f"{url}/flows/count", auth=user).status_code
    except httpx.TransportError:
        return None


def test_the_server_outlives_ctrl_c_and_ends_with_the_flow(tmp_path: Path) -> None:
    with flow_with_server(tmp_path) as (flow, url, drawn):
        os.killpg(flow.pid, signal.SIGINT)
        assert not wait_for(lambda: answer(url, drawn) is None, 2)
        assert answer(url, drawn) == httpx.codes.OK
        assert answer(url) == httpx.codes.UNAUTHORIZED
        flow.kill()
        assert wait_for(lambda: answer(url) is None, 30)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PREFECT_HOME": "{file}/home"}, "events: ParameterError: PREFECT_HOME is {file}/home, where"),
        (
            {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "garbage"},
            "events: ParameterError: Prefect's temporary server does not start",
        ),
        ({"PREFECT_LOGGING_LEVEL": "garbage"}, "Prefect refuses a setting (level: Input should be 'DEBUG'"),
        (
            {"PREFECT_API_URL": "http://me:word@127.0.0.1:9/api", "PREFECT_API_AUTH_STRING": "me:word"},
            "events: ParameterError: PREFECT_API_URL names a user beside the address http://127.0.0.1:9/api",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_keeps_a_server_from_starting_is_said_in_a_line(
    variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    given = {name: value.format(file=file) for name, value in variables.items()}
    program = (
        "import sys; from flows.exit_status import exit_status; from flows.events import check_server; "
        "sys.exit(exit_status('events', check_server))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=REPOSITORY,
        env=environment(tmp_path / "home") | given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(expected.format(file=file))
    assert "Traceback" not in done.stderr


def test_an_interrupted_flow_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exit_status("retrain", interrupted) == 130
    assert capsys.readouterr().err.startswith("retrain: interrupted; ")
