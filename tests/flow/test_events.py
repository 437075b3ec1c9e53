"""The Prefect server that a flow would report to: whatever is wrong with it is one line, and at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)

from distar.errors import ParameterError
from flows import deployments, grid, pipeline, promptset, retrain, watch
from flows.events import check_server, require_server
from tests.miniature import with_pipeline

SECRET = "letmein/letmein"  # noqa: S105  of nothing
FLOWS: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
    (pipeline.main, []),
    (pipeline.main, ["--set", "train.num_steps=1"]),
    (retrain.main, []),
    (watch.main, []),
    (grid.main, []),
    (promptset.main, ["recent"]),
    (deployments.main, ["serve"]),
    (deployments.main, ["notify", "--block", "slack-webhook/nobody"]),
]


@contextmanager
def answering(status: int, content: bytes, kind: str = "application/json", **headers: str) -> Iterator[str]:
    """Serve one answer to whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@contextmanager
def hanging(a_byte_each: float | None) -> Iterator[str]:
    """Take connections, and answer nothing, or a byte now and then."""

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000:
                    time.sleep(a_byte_each or 3600)
                    connection.sendall(bytes([byte]))
            except OSError:
                return  # whoever asked is gone

    def take(server: socket.socket) -> None:
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return  # closed
            Thread(target=drip, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=take, args=[server], daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def refusal(url: str) -> str:
    """Return what is said of a server; it is one line without secrets, and comes soon."""
    begun = time.monotonic()
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ParameterError) as caught:
        check_server()
    assert time.monotonic() - begun < 3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    told = str(caught.value)
    assert "\n" not in told
    assert SECRET not in told
    assert "PREFECT_API_URL is" in told
    return told


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4200/api",
        "localhost",
        " ",
        "ftp://127.0.0.1/api",
        "http://",
        "http:///api",
        "http://127.0.0.1:99999/api",
        "http://127.0.0.1:port/api",
        "http://no.such.host.invalid/api",
        "http://a\x01b/api",
        f"http://user:{SECRET}@127.0.0.1:1/api",
        f"user:{SECRET}@127.0.0.1:1/api",
    ],
)
def test_no_server_is_told_in_one_line(url: str) -> None:
    refusal(url)


def test_a_user_in_the_url_is_not_shown_and_not_mixed_with_the_string() -> None:
    url = f"http://user:{SECRET}@127.0.0.1:1/api"
    assert "PREFECT_API_URL is http://127.0.0.1:1/api, " in refusal(url)
    with temporary_settings({PREFECT_API_AUTH_STRING: "another:string"}):
        assert "take the user and the password out of PREFECT_API_URL" in refusal(url)


def test_a_closed_port_is_told() -> None:
    assert "cannot be reached: [Errno 111] Connection refused" in refusal(f"http://127.0.0.1:{closed_port()}/api")


@pytest.mark.parametrize("a_byte_each", [None, 0.5])
def test_a_server_that_hangs_is_told(a_byte_each: float | None) -> None:
    with hanging(a_byte_each) as url:
        assert "does not answer within" in refusal(url)


@pytest.mark.parametrize(
    ("status", "content", "kind", "expected"),
    [
        (404, b"<html>Not Found</html>", "text/html", "answers 404"),
        (200, b"<html>Welcome</html>", "text/html", "is none of Prefect's"),
        (200, b"{}", "application/json", "is none of Prefect's"),
        (200, b"[]", "application/json", "is none of Prefect's"),
        (200, b'"hello"', "application/json", "is none of Prefect's"),
        (200, b"\xff\xfe", "application/json", "is none of Prefect's"),
        (204, b"", "application/json", "is none of Prefect's"),
        (302, b"", "text/html", "answers 302"),
        (500, b"a\nb\nc", "text/plain", "answers 500"),
        (503, b"", "text/plain", "answers 503"),
    ],
)
def test_a_server_of_something_else_is_told(status: int, content: bytes, kind: str, expected: str) -> None:
    with answering(status, content, kind) as url:
        assert expected in refusal(url)


@pytest.mark.parametrize("headers", [{"Retry_After": "60"}, {"Prefect_Maintenance": "true"}])
def test_a_server_that_asks_for_patience_is_told(headers: dict[str, str]) -> None:
    with answering(503, b"", "text/plain", **headers) as url:
        refusal(url)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("given", "expected"), [(None, "is not set"), (SECRET, "is another")])
def test_a_refusal_names_the_authentication_string(status: int, given: str | None, expected: str) -> None:
    with answering(status, b"{}") as url, temporary_settings({PREFECT_API_AUTH_STRING: given}):
        assert f"({status}): PREFECT_API_AUTH_STRING {expected}" in refusal(url)


def test_a_certificate_that_is_missing_is_told() -> None:
    with temporary_settings({PREFECT_API_SSL_CERT_FILE: "missing.pem"}):
        refusal("https://127.0.0.1:1/api")


def test_prefects_own_answer_is_enough() -> None:
    with answering(200, b'"3.8.8"') as url, temporary_settings({PREFECT_API_URL: url}):
        check_server()
        require_server()


def test_no_temporary_server_where_none_may_start() -> None:
    with (
        temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_EPHEMERAL_ENABLED: False}),
        pytest.raises(ParameterError, match="may start no temporary server"),
    ):
        check_server()


@pytest.mark.parametrize(("main", "arguments"), FLOWS)
def test_every_flow_tells_it(
    reproduced: Path, main: Callable[[Sequence[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api"}):
        assert main(arguments) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "ParameterError: PREFECT_API_URL is" in told


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipeline", "retrain", "watch", "grid", "promptset recent", "deployments serve"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/api", "http://[::1"])
def test_a_process_tells_it_too(project: Path, module: str, url: str) -> None:
    with_pipeline(project)
    name, *arguments = module.split()
    ended = subprocess.run(
        [sys.executable, "-m", f"flows.{name}", *arguments],
        env={**os.environ, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    (told,) = ended.stderr.splitlines()
    assert "PREFECT_API_URL" in told


TEMPORARY = """
import sys
from prefect import flow
from prefect.settings import PREFECT_API_URL
from flows.events import check_server
from flows.exit_status import exit_status

@flow
def waits():
    print(PREFECT_API_URL.value(), flush=True)
    if sys.stdin.read() == "fail":
        raise ValueError("as asked")

def run():
    check_server()
    waits()

sys.exit(exit_status("waits", run, "Wait again."))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@contextmanager
def waiting(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a flow that waits, with a temporary server, in a group as a terminal makes it; yield the server's URL."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with subprocess.Popen(
        [sys.executable, "-c", TEMPORARY],
        env={**environment, "PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "INFO"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  no thread forks here
    ) as flow:
        try:
            assert flow.stdout is not None
            yield flow, flow.stdout.readline().strip()
        finally:
            flow.kill()


def is_gone(url: str, seconds: float = 10) -> bool:
    """Tell whether nothing listens any longer."""
    host, port = url.removeprefix("http://").removesuffix("/api").split(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex((host, int(port))):
                return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("fail", 1), (signal.SIGINT, 130), (signal.SIGTERM, None), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_temporary_server_ends_with_its_flow(end: str | int, status: int | None, home: Path) -> None:
    with waiting(home) as (flow, url):
        assert not is_gone(url, 0.5)
        if isinstance(end, str):
            assert flow.stdin is not None
            flow.stdin.write(end)
            flow.stdin.close()
        else:
            os.killpg(flow.pid, end)  # as a terminal's Ctrl-C reaches all that is in the group
        flow.wait(20)
        assert flow.returncode == status or (status is None and flow.returncode)
        assert is_gone(url)
        if end == signal.SIGINT:
            assert flow.stderr is not None
            told = flow.stderr.read()
            assert "Beginning flow run" in told
            assert told.splitlines()[-1] == "waits: interrupted; what it had started has ended. Wait again."
            assert "Traceback" not in told


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PREFECT_HOME", "/proc/1/x", "PREFECT_HOME is /proc/1/x, and Prefect's temporary server cannot write there"),
        ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "garbage", "its database is that of {variable}"),
        ("PREFECT_LOGGING_LEVEL", "garbage", "{variable}: Input should be"),
        ("PREFECT_CLIENT_MAX_RETRIES", "many", "{variable}: Input should be"),
        ("PREFECT_SERVER_EPHEMERAL_ENABLED", "maybe", "settings: {variable}: Input should be"),
        ("PREFECT_PROFILES_PATH", "/proc", "Prefect's settings cannot be read"),
    ],
)
def test_settings_that_cannot_be_are_told_at_once(variable: str, value: str, expected: str, tmp_path: Path) -> None:
    environment = {name: one for name, one in os.environ.items() if name != "PREFECT_API_URL"}
    run = "import sys; from flows.events import check_server; from flows.exit_status import exit_status; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{run}sys.exit(exit_status('flow', check_server))"],
        env={**environment, "PREFECT_HOME": str(tmp_path), variable: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (told,) = ended.stderr.splitlines()
    assert expected.format(variable=variable) in told


def test_a_folder_whose_name_python_cannot_read_is_told_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "grün 用户"
    folder.mkdir()
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", "import flows"]
    for environment, expected in ((plain, "set PYTHONUTF8=1, or rename the folder"), ({}, "")):
        ended = subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert expected in ended.stderr
        assert ended.stderr.count("\n") == ended.returncode == (1 if expected else 0)
