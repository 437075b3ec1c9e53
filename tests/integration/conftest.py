"""Fixtures: a hub on the loopback, and a real S3 server (SeaweedFS)."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.hub import Hub, serving

ACCESS_KEY, SECRET_KEY = "tester", "tester-secret"


class S3Server(NamedTuple):
    """Where a running S3 server is, and who may use it."""

    url: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start SeaweedFS, with credentials, on free ports of the loopback."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    flags = [f"-{name}.port{kind}" for name in names for kind in ("", ".grpc")]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in flags]
    ports = dict(zip(flags, (one.getsockname()[1] for one in sockets), strict=True))
    for one in sockets:
        one.close()
    command = [
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=1000",
        *(f"{flag}={port}" for flag, port in ports.items()),
    ]
    url = f"http://127.0.0.1:{ports['-s3.port']}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_until_it_writes(url, process, folder / "log")
            yield S3Server(url, ACCESS_KEY, SECRET_KEY)
        finally:
            process.kill()  # it takes ten seconds to end in peace, and nothing of it is kept


def client_of(server: S3Server) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


def _wait_until_it_writes(url: str, process: subprocess.Popen, log: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    client = client_of(S3Server(url, ACCESS_KEY, SECRET_KEY))
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="file", Body=b"content")
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Point the environment at the S3 server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server


@pytest.fixture
def bucket(s3: S3Server, request: pytest.FixtureRequest) -> str:
    """Make an empty bucket for one test."""
    name = f"test-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:40]}"
    client_of(s3).create_bucket(Bucket=name)
    return name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Start a hub, point the client at it, and work in an empty folder without caches."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http  # the client's session keeps connections to the hub of the test before

    import distar.fetching.downloads

    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(distar.fetching.downloads, "SECONDS_BETWEEN_TRIES", (0.01, 0.01, 0.01))
        monkeypatch.setenv("DISTAR_DOWNLOADS", str(tmp_path / "downloads"))
        monkeypatch.chdir(tmp_path)
        yield hub
        _http.close_session()
