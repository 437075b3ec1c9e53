"""A loopback server before the real S3 server: it hands requests on, and does what is wrong with some of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit


class Fault(NamedTuple):
    """What goes wrong with requests of a method whose address contains a text.

    `answer`: the server answers with `status` and `code`; `lose`: the request is carried out, but its answer is lost;
    `cut`: the connection breaks in the middle of the answer; `hold`: the request waits until `Faulty.go_on` is set.
    """

    method: str
    part: str
    kind: Literal["answer", "lose", "cut", "hold"]
    times: int
    status: int = 0
    code: str = ""


@dataclass
class Faulty:
    """The running server."""

    behind: str
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, address, range
    holding: threading.Event = field(default_factory=threading.Event)
    deleting: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_fault(self, method: str, address: str) -> Fault | None:
        with self._lock:
            for i, fault in enumerate(self.faults):
                if fault.times > 0 and fault.method == method and fault.part in address:
                    self.faults[i] = fault._replace(times=fault.times - 1)
                    return fault
        return None


@contextmanager
def faulty_before(url: str) -> Iterator[Faulty]:
    """Start a server that hands requests on to the one at `url`."""
    faulty = Faulty(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            faulty.requests.append((self.command, self.path, self.headers["Range"]))
            if self.command == "DELETE":
                faulty.deleting.set()
            fault = faulty.next_fault(self.command, self.path)
            match fault.kind if fault else None:
                case "answer":
                    assert fault is not None
                    self.answer_wrongly(fault)
                case "lose":
                    self.handed_on(body)
                    self.close_connection = True
                case "hold":
                    faulty.holding.set()
                    faulty.go_on.wait()
                    self.pass_back(*self.handed_on(body), share=1.0)
                case "cut":
                    self.pass_back(*self.handed_on(body), share=0.5)
                case None:
                    self.pass_back(*self.handed_on(body), share=1.0)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815  the library's names

        def handed_on(self, body: bytes) -> tuple[HTTPResponse, bytes]:
            """Carry out the request; the signature covers its headers as they are, the host among them."""
            where = urlsplit(faulty.behind)
            connection = HTTPConnection(str(where.hostname), where.port)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer, content

        def pass_back(self, answer: HTTPResponse, content: bytes, share: float) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content[: int(share * len(content))])
            self.close_connection = share < 1

        def answer_wrongly(self, fault: Fault) -> None:
            text = f"<Error><Code>{fault.code}</Code><Message>because</Message></Error>" if fault.code else ""
            body = b"" if self.command == "HEAD" else text.encode()
            self.send_response(fault.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed in mid-request is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    faulty.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield faulty
    finally:
        faulty.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
