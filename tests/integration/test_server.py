"""`make server` as a process: everything answers its user and nobody else, and nothing is left however it ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from distar.release.releases import release_ids
from distar.release.storage import open_store
from flows.server import PREFECT_PORT, S3_PORT, STORE
from tests.integration.browser import reported, serving
from tests.integration.conftest import S3Server, client_of
from tests.integration.prefect_server import process, wait_for
from tests.miniature import make_project, with_pipeline

pytestmark = pytest.mark.slow

FOREIGN = "http://evil.example"
IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "2"}  # or what is served asks a server that is gone for a minute
# what the user's own environment says must open nothing
CARELESS = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "*"}
LISTED = ("flows", "deployments", "flow_runs", "automations", "variables", "block_documents", "work_pools")
HTTP_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")


@dataclass(frozen=True)
class Running:
    """A server that is up."""

    project: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def folder(self) -> Path:
        return self.project / ".distar" / "server"

    @property
    def environment(self) -> dict[str, str]:
        """What its users source."""
        lines = (self.folder / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def api(self) -> str:
        return self.environment["PREFECT_API_URL"]

    @property
    def auth_string(self) -> str:
        return self.environment["PREFECT_API_AUTH_STRING"]

    @property
    def s3(self) -> Any:
        told = self.environment
        return client_of(S3Server(told["AWS_ENDPOINT_URL"], told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]))

    @property
    def weed_ports(self) -> dict[str, int]:
        """The ports of SeaweedFS, by flag."""
        (words,) = [
            words for words in map(words_of, of_server(self.project)) if words and "-filer.disableHttp" in words
        ]
        given = [re.fullmatch(r"-(\w+\.port(?:\.grpc)?)=(\d+)", word) for word in words]
        return {one[1]: int(one[2]) for one in given if one and int(one[2])}

    def content(self) -> dict[str, Any]:
        """List what Prefect and S3 hold, as who may."""
        user, _, password = self.auth_string.partition(":")
        with httpx.Client(base_url=self.api, auth=(user, password)) as client:
            found: dict[str, Any] = {
                kind: sorted(one["name"] for one in client.post(f"/{kind}/filter", json={}).raise_for_status().json())
                for kind in LISTED
            }
        buckets = [one["Name"] for one in self.s3.list_buckets()["Buckets"]]
        objects = {name: self.s3.list_objects_v2(Bucket=name).get("Contents", []) for name in buckets}
        return found | {"objects": {name: [one["Key"] for one in listed] for name, listed in objects.items()}}

    def holding(self, text: str) -> list[Path]:
        """Return the files of the server, its logs aside, that hold a text."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
        return [path for path in files if text.encode() in path.read_bytes()]


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


def words_of(process: int) -> list[str]:
    """Return a process's command line."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended meanwhile
        return []


@contextmanager
def started(project: Path, log: Path) -> Iterator[Running]:
    """Start a server in a project, with both of its ports in use by others, and wait until it is up."""
    with ExitStack() as stack:
        for port in (PREFECT_PORT, S3_PORT):
            with suppress(OSError):  # in use already, which does as well
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        server = stack.enter_context(process(["flows.server"], project, log, IMPATIENT | CARELESS))
        wait_for("it is up", lambda: server.poll() is not None or "Ctrl-C" in log.read_text())
        assert server.poll() is None, log.read_text()
        yield Running(project, server, log)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_models: Path) -> Iterator[Running]:
    """Start the server that the tests of this file ask one after the other; the last one ends it."""
    folder = tmp_path_factory.mktemp("server")
    project = with_pipeline(make_project(folder / "project", miniature_models))
    with started(project, folder / "log") as running:
        yield running


def test_it_tells_where_all_is_and_what_it_asks_for(server: Running) -> None:
    told = server.log.read_text()
    assert told.count("is in use; taking") == 2
    assert server.api.removesuffix("/api") in told
    assert told.count(server.auth_string) == 1
    assert len(of_server(server.project)) >= 3


def test_secrets_are_kept_from_other_users(server: Running) -> None:
    hidden = {name: value for name, value in server.environment.items() if re.search("AUTH|SECRET", name)}
    assert len(hidden) == 2
    for name in ("environment", "auth_string", "s3.json"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    for secret in hidden.values():
        for log in (server.folder / "logs").iterdir():
            assert secret not in log.read_text(errors="replace")
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it ended meanwhile
                assert secret.encode() not in command.read_bytes()


def test_all_listens_on_the_loopback_alone(server: Running) -> None:
    mine: set[str] = set()
    for number in of_server(server.project):
        with suppress(OSError):  # it ended meanwhile
            mine |= {str(path.readlink()) for path in Path(f"/proc/{number}/fd").iterdir()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in mine:
                listening.append(local)
    assert len(listening) >= 1 + len(server.weed_ports)
    assert {local.partition(":")[0] for local in listening} == {"0100007F"}, listening


def test_its_user_works_with_s3(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert release_ids(open_store(STORE)) == []
    large = os.urandom(20 * 1024 * 1024)
    server.s3.create_bucket(Bucket="another")
    server.s3.put_object(Bucket="another", Key="small", Body=b"content")
    in_parts = TransferConfig(multipart_threshold=8 * 1024 * 1024)
    server.s3.upload_fileobj(BytesIO(large), "another", "large", Config=in_parts)
    assert server.s3.get_object(Bucket="another", Key="small")["Body"].read() == b"content"
    assert server.s3.get_object(Bucket="another", Key="large")["Body"].read() == large


def changes_of(marker: str) -> dict[str, Any]:
    """Return what would change something in Prefect, by its path below the API."""
    event = {
        "event": "distar.promptset.published",  # sets off a retrain
        "id": "00000000-0000-4000-8000-000000000001",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": marker},
    }
    trigger = {"type": "event", "posture": "Reactive", "expect": ["*"], "threshold": 1, "within": 0}
    return {
        "/flows/": {"name": marker},
        "/variables/": {"name": marker, "value": marker},
        "/automations/": {"name": marker, "trigger": trigger, "actions": [{"type": "do-nothing"}]},
        "/work_pools/": {"name": marker, "type": "process"},
        "/deployments/": {"name": marker, "flow_id": event["id"]},
        "/v2/concurrency_limits/": {"name": marker, "limit": 1},
        "/admin/database/clear": {"confirm": True},
        "/events": [event],
    }


def object_paths(server: Running, marker: str) -> list[str]:
    """Return URLs of SeaweedFS where something could be stored, or room be made for it."""
    paths = {
        "master.port": ("/submit", "/dir/assign", "/vol/grow?count=1", f"/{marker}", "/col/delete?collection=another"),
        "volume.port": ("/1,0123456789ab", "/3,01637037d6", "/admin/assign_volume?volume=99", "/submit"),
        "filer.port": (f"/buckets/another/{marker}", f"/{marker}", "/buckets/?op=append"),
        "s3.port": (f"/another/{marker}", "/another", f"/{marker}", "/?Action=CreateUser&UserName=evil"),
    }
    return [f"http://127.0.0.1:{server.weed_ports[port]}{path}" for port in HTTP_PORTS for path in paths[port]]


@pytest.fixture
def untouched(server: Running) -> Iterator[str]:
    """Yield a text that no test but this one sends, and see that nothing holds it, and all is there, afterwards."""
    marker, before = f"planted-{secrets.token_hex(8)}", server.content()
    assert before["deployments"] == ["pipeline", "retrain", "watch"]
    assert before["objects"]["another"] == ["large", "small"]
    yield marker
    assert server.content() == before
    assert server.holding(marker) == []
    assert not Path(tempfile.gettempdir(), marker).exists()


@pytest.mark.parametrize("host", [None, "evil.example", "localhost:4200", "127.0.0.1"])
@pytest.mark.parametrize(
    "authorization", [None, "Basic", "Basic Og==", "Basic ZGlzdGFyOmd1ZXNzZWQ=", "Bearer x", "Basic distar:x"]
)
def test_prefect_answers_nobody_else(
    server: Running, untouched: str, host: str | None, authorization: str | None
) -> None:
    headers = {"Origin": FOREIGN} | ({"Authorization": authorization} if authorization else {})
    headers |= {"Host": host} if host else {}
    with httpx.Client(base_url=server.api, headers=headers) as client:
        for path, document in changes_of(untouched).items():
            assert client.post(path, json=document).status_code == HTTPStatus.UNAUTHORIZED, path
        for path in ("/admin/settings", "/flows/count", "/admin/version", "/ui/schemas/validate", "/hello"):
            assert client.get(path).status_code == HTTPStatus.UNAUTHORIZED, path
        assert client.post("/health").status_code == HTTPStatus.UNAUTHORIZED


def test_prefect_lets_no_page_of_another_origin_ask(server: Running) -> None:
    def preflight(origin: str) -> httpx.Response:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return httpx.options(f"{server.api}/flows/", headers=asked | {"Access-Control-Request-Headers": "content-type"})

    allowed = "Access-Control-Allow-Origin"
    own = server.api.removesuffix("/api")
    for origin in (own, own.replace("127.0.0.1", "localhost")):
        assert preflight(origin).headers[allowed] == origin
    for origin in (FOREIGN, "null", "http://127.0.0.1:1", own.replace("127.0.0.1", "evil.example"), f"{own}.evil"):
        assert allowed not in preflight(origin).headers, origin
        answer = httpx.get(f"{server.api}/health", headers={"Origin": origin})
        assert allowed not in answer.headers, origin


@pytest.mark.parametrize("protocol", [None, "prefect"])
@pytest.mark.parametrize("path", ["/events/in", "/events/out", "/logs/out"])
def test_prefect_takes_no_events_of_others(server: Running, untouched: str, path: str, protocol: str | None) -> None:
    (event,) = changes_of(untouched)["/events"]
    offered = [Subprotocol(protocol)] if protocol else None
    with (
        suppress(InvalidStatus),
        connect(f"ws{server.api.removeprefix('http')}{path}", subprotocols=offered, origin=Origin(FOREIGN)) as spoken,
        suppress(ConnectionClosed),
    ):
        for message in ({"type": "auth", "token": "distar:guessed"}, event):
            spoken.send(json.dumps(message))
        pytest.fail(f"got an answer: {spoken.recv(timeout=10)}")


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
def test_seaweedfs_stores_nothing_for_others(server: Running, untouched: str, method: str) -> None:
    for url in object_paths(server, untouched):
        planted: list[dict[str, Any]] = [{"files": {"file": untouched.encode()}}, {"content": untouched.encode()}]
        for request in planted:
            answer = httpx.request(method, url, headers={"Origin": FOREIGN}, **request)
            assert answer.status_code >= 400, f"{method} {url}: {answer.status_code} {answer.text[:200]}"


def test_a_page_of_another_origin_changes_nothing(server: Running, untouched: str, tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()

    class Control(BaseHTTPRequestHandler):
        """A server that asks for nothing: what the page can do to it, it tries on all others."""

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            seen.add((self.command, "planted" if untouched.encode() in content else ""))
            self.send_response(204)
            self.end_headers()

        def do_GET(self) -> None:
            seen.add((self.command, self.headers.get("Upgrade", "")))
            self.send_response(404)
            self.end_headers()

        def do_OPTIONS(self) -> None:
            seen.add((self.command, self.headers["Access-Control-Request-Method"]))
            self.send_response(403)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    with serving(Control) as control:
        changes = {path: json.dumps(document) for path, document in changes_of(untouched).items()}
        attacks = [{"method": "POST", "url": f"{control}/", "body": changes["/flows/"]}]
        attacks += [{"method": "POST", "url": server.api + path, "body": body} for path, body in changes.items()]
        attacks += [{"method": "PUT", "url": url, "body": untouched} for url in object_paths(server, untouched)]
        messages = [json.dumps({"type": "auth", "token": "distar:guessed"}), changes["/events"][1:-1]]
        sockets = [
            {"url": f"ws{url.removeprefix('http')}", "protocol": protocol, "messages": messages}
            for url in (control, *(server.api + path for path in ("/events/in", "/events/out", "/logs/out")))
            for protocol in ("", "prefect")
        ]
        page = (Path(__file__).with_name("attacker.html")).read_text(encoding="utf-8")
        for name, value in {"ATTACKS": attacks, "SOCKETS": sockets, "API": server.api, "MARKER": untouched}.items():
            page = page.replace(name, value if isinstance(value, str) else json.dumps(value))
        outcomes = reported(page, tmp_path, seconds=300)
    assert seen >= {("POST", "planted"), ("OPTIONS", "POST"), ("GET", "websocket")}
    kinds = {one["kind"] for one in outcomes}
    assert kinds == {
        "no-cors", "no-cors text", "no-cors credentials", "no-cors file", "cors", "cors guessed", "chain", "socket",
    }  # fmt: skip
    for one in outcomes:
        if one["kind"] in ("cors", "cors guessed", "chain"):  # TypeError: the answer is kept from the page
            refused = one["outcome"] == "TypeError" or int(one["outcome"]) >= 400
            assert refused if not one["url"].startswith(server.api) else one["outcome"] == "TypeError", one
        if one["kind"] == "socket":
            assert "auth_success" not in one["outcome"], one
            assert one["outcome"].startswith("closed"), one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_server(server: Running, number: int, tmp_path: Path) -> None:
    """The last test: after it the server of this file has ended; it is started again once, to be killed."""
    if number == signal.SIGINT:
        end(server, number)
        return
    before = server.environment
    with started(server.project, tmp_path / "log") as again:
        kept = ("PREFECT_API_AUTH_STRING", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        assert {name: again.environment[name] for name in kept} == {name: before[name] for name in kept}
        assert again.s3.get_object(Bucket="another", Key="small")["Body"].read() == b"content"
        end(again, number)


def end(server: Running, number: int) -> None:
    os.kill(server.process.pid, number)
    assert server.process.wait(60) == (-number if number == signal.SIGKILL else 0)
    if number == signal.SIGKILL:  # what still uses the data keeps others from it
        command = [sys.executable, "-m", "flows.server"]
        early = subprocess.run(command, cwd=server.project, capture_output=True, text=True, timeout=60, check=False)
        assert early.returncode == 1
        assert f"process {server.process.pid}, which took it, is not on this machine any longer" in early.stderr
    wait_for("all of it ends", lambda: not of_server(server.project))
