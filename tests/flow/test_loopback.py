"""Requests to the loopback go past any proxy: to Prefect's temporary server, a hub, an S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx
import pytest

from distar.loopback import without_proxy
from tests.integration.hub import serving as serving_hub

LOOPBACK = ["127.0.0.1", "localhost", "::1"]
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
NAMES = ("no_proxy", "NO_PROXY")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, LOOPBACK),
        ({"NO_PROXY": ""}, LOOPBACK),
        ({"NO_PROXY": "corp.example"}, ["corp.example", *LOOPBACK]),
        ({"no_proxy": "corp.example, .example.org"}, ["corp.example", ".example.org", *LOOPBACK]),
        ({"no_proxy": "localhost,::1"}, ["localhost", "::1", "127.0.0.1"]),
        ({"NO_PROXY": ",,corp.example,"}, ["corp.example", *LOOPBACK]),
        ({"NO_PROXY": "*"}, ["*"]),
        ({"no_proxy": "corp.example,*"}, ["*"]),
    ],
)
def test_the_loopback_is_added_to_both_names(given: dict[str, str], expected: list[str]) -> None:
    assert without_proxy(given) == dict.fromkeys(NAMES, ",".join(expected))
    assert without_proxy(without_proxy(given)) == without_proxy(given)


def test_names_that_differ_are_kept_apart() -> None:
    extended = without_proxy({"no_proxy": "a.example", "NO_PROXY": "b.example"})
    assert extended == {"no_proxy": ",".join(["a.example", *LOOPBACK]), "NO_PROXY": ",".join(["b.example", *LOOPBACK])}


@pytest.mark.parametrize("given", [{}, {"NO_PROXY": "corp.example"}, {"no_proxy": "*"}])
def test_clients_understand_it(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HTTP_PROXY": "http://127.0.0.1:1", **without_proxy(given)}.items():
        monkeypatch.setenv(name, value)
    assert getproxies()["http"]
    for host in ("127.0.0.1:4200", "localhost:8333"):
        assert proxy_bypass(host)
    with serving_hub() as hub:
        assert httpx.get(f"{hub.url}/", timeout=5).status_code


class Proxy(BaseHTTPRequestHandler):
    """Refuse whatever is to be passed on, and remember it."""

    asked: list[str]

    def refuse(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_error(403, "blocked by proxy policy")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_CONNECT = refuse  # noqa: N815  the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Remembering", (Proxy,), {"asked": asked})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("excepted", [None, "corp.example"])
def test_a_flow_asks_no_proxy_for_its_own_server(
    reproduced: Path, proxy: tuple[str, list[str]], excepted: str | None
) -> None:
    """The whole pipeline, whose stages are up to date, with Prefect's temporary server."""
    assert reproduced
    url, asked = proxy
    environment = {name: value for name, value in os.environ.items() if name not in (*NAMES, "PREFECT_API_URL")}
    environment |= dict.fromkeys(PROXIES, url) | ({"NO_PROXY": excepted} if excepted else {})
    command = [sys.executable, "-m", "flows.pipeline"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [one for one in asked if "127.0.0.1" in one or "localhost" in one] == []
    assert "401" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
