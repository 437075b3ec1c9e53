"""A hub on the loopback: the model hub's addresses and answers, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000  # files of this size on are large files, whose sha256 the hub tells


class Request(NamedTuple):
    path: str
    range: str | None
    token: str | None


class Fault(NamedTuple):
    """An answer in place of the right one, for requests whose path ends with `path`."""

    path: str
    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    cut: bool = False  # announce the right file, and close the connection after `body`


class Hub:
    """Repositories by "models/owner/name" or "datasets/owner/name": files by path, at one revision."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}  # of an S3 store, by "bucket/key"
        self.faults: list[Fault] = []  # each is used once, in this order
        self.requests: list[Request] = []
        self.seconds_a_chunk = 0.0
        self.ranges = True
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges_of(self, name: str) -> list[str | None]:
        return [request.range for request in self.requests if request.path.endswith(name)]

    def next_fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if path.endswith(fault.path):
                self.faults.remove(fault)
                return fault
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(Request(path, self.headers["Range"], self.headers["Authorization"]))
            fault = hub.next_fault(path)
            if fault is not None and not fault.cut:
                self.answer(fault.status, fault.headers, fault.body)
            elif match := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/revision/(.+)", path):
                self.list_files(match[1], match[2])
            elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.send_file(match[1], match[2], match[3], fault)
            elif path[1:] in hub.objects:
                self.send_content(hub.objects[path[1:]], fault)
            else:
                self.answer(404, {}, b"")

        def found(self, repository: str, revision: str) -> dict[str, bytes] | None:
            if repository not in hub.repositories:
                self.answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
            elif revision not in {REVISION, "main"}:
                self.answer(404, {"X-Error-Code": "RevisionNotFound"}, b"")
            else:
                return hub.repositories[repository]
            return None

        def list_files(self, repository: str, revision: str) -> None:
            files = self.found(repository, revision)
            if files is None:
                return
            siblings = []
            for path, content in files.items():
                sibling: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
                if len(content) >= LARGE:
                    sha256 = hashlib.sha256(content).hexdigest()
                    sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
                siblings.append(sibling)
            name = repository.partition("/")[2]
            listing = {"id": name, "sha": REVISION, "siblings": siblings}
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())

        def send_file(self, repository: str, revision: str, path: str, fault: Fault | None) -> None:
            key = repository if repository.startswith("datasets/") else f"models/{repository}"
            files = self.found(key, revision)
            if files is None:
                return
            if path not in files:
                self.answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
                return
            self.send_content(files[path], fault)

        def send_content(self, content: bytes, fault: Fault | None) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            start = int(asked[1]) if asked and hub.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if fault is not None:
                self.wfile.write(fault.body)
                self.close_connection = True
                return
            for i in range(start, len(content), 65536):
                self.wfile.write(content[i : min(i + 65536, len(content))])
                self.wfile.flush()
                time.sleep(hub.seconds_a_chunk)

        def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed in mid-file is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
