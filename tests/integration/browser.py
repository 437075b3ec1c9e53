"""A headless browser on a page of its own origin, and the server of that page.

The browser is Debian's package `chromium`, which .ci/run installs where it is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def serving(answer: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of the loopback; yield the origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def reported(page: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Open a page in the browser, and return what its script posts to /report."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.fail("chromium is not installed; apt-get install chromium")
    reports: Queue[list[dict[str, Any]]] = Queue()

    class Attacker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            reports.put(json.loads(content))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    with serving(Attacker) as origin, (folder / "browser.log").open("wb") as log:
        command = [browser, *_FLAGS, f"--user-data-dir={folder / 'browser'}", origin]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            return reports.get(timeout=seconds)
        except Empty:
            pytest.fail(f"the page did not report: {(folder / 'browser.log').read_text(errors='replace')[-2000:]}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
