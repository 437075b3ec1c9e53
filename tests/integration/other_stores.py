"""A small S3 store in memory that differs from Amazon's as it is told to; over TLS if that is wanted."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape


class Asked(NamedTuple):
    """A request as the store sees it; names of headers in lower case."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def conditional(self) -> bool:
        return not {"if-match", "if-none-match"}.isdisjoint(self.headers)


class Answer(NamedTuple):
    """An answer; a body in pieces is sent without saying how long it is."""

    status: int
    body: bytes | Iterable[bytes] = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Upload:
    """An upload in parts."""

    metadata: tuple[tuple[str, str], ...]
    parts: dict[int, bytes] = field(default_factory=dict)


def refusal(status: int, code: str, message: str = "because", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Answer(status, body, tuple(headers.items()))


@dataclass
class OtherStore:
    """The running store.

    Attributes:
        quirks: what it does otherwise, as the methods below ask.
        instead: returns the answer to a request in place of the right one, or None.
        objects: content, ETag and metadata by "bucket/key".
    """

    url: str
    quirks: set[str] = field(default_factory=set)
    instead: Callable[[Asked], Answer | None] = lambda _: None
    objects: dict[str, tuple[bytes, str, tuple[tuple[str, str], ...]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    uploads: dict[str, Upload] = field(default_factory=dict)
    answered: set[tuple[str | None, ...]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, asked: Asked, body: bytes) -> Answer:
        self.asked.append(asked)
        answer = self.instead(asked) or self._refused(asked)
        if answer is not None:
            return answer
        if {"uploads", "uploadId"} & asked.query.keys():
            return self._in_parts(asked, body)
        match asked.method:
            case "PUT":
                return self._put(asked, self._kept(body), self._etag(body))
            case "DELETE":
                self.objects.pop(asked.key, None)
                return Answer(204)
            case _ if "list-type" in asked.query:
                return self._listing(asked)
        return self._get(asked)

    def _in_parts(self, asked: Asked, body: bytes) -> Answer:
        number = asked.query.get("uploadId", [str(len(self.asked))])[0]
        match asked.method:
            case "PUT":
                self.uploads[number].parts[int(asked.query["partNumber"][0])] = self._kept(body)
                return Answer(200, b"", (("ETag", self._etag(body)),))
            case "DELETE":
                self.uploads.pop(number, None)
                return Answer(204)
            case _ if "uploads" in asked.query:
                self.uploads[number] = Upload(self._metadata(asked))
                return answer_of("InitiateMultipartUploadResult", UploadId=number)
        upload = self.uploads.pop(number)
        parts = [part for _, part in sorted(upload.parts.items())]
        etag = f'"{md5_of(b"".join(bytes.fromhex(md5_of(part)) for part in parts))}-{len(parts)}"'
        etag = self._etag(b"") if "opaque etags" in self.quirks else etag
        self.objects[asked.key] = (b"".join(parts), etag, upload.metadata)
        return answer_of("CompleteMultipartUploadResult", ETag=etag)

    def _refused(self, asked: Asked) -> Answer | None:  # noqa: PLR0911  one for each reason
        checksums = [name for name in asked.headers if name.startswith(("x-amz-sdk-checksum", "x-amz-checksum"))]
        chunked = "aws-chunked" in asked.headers.get("content-encoding", "")
        standing = self.objects.get(asked.key)
        if "no checksums" in self.quirks and checksums:
            return refusal(400, "InvalidArgument", f"Unsupported header '{checksums[0]}' received for this API call.")
        if "no chunks" in self.quirks and chunked:
            return refusal(501, "NotImplemented", "aws-chunked is not supported")
        if "no deleting" in self.quirks and asked.method == "DELETE":
            return refusal(403, "AccessDenied")
        if "ignores conditions" not in self.quirks and asked.headers.get("if-none-match") == "*" and standing:
            return refusal(412, "PreconditionFailed")
        version = asked.headers.get("if-match")
        if version and not {"ignores conditions", "ignores If-Match"} & self.quirks:
            if standing is None:
                return refusal(404, "NoSuchKey")
            return refusal(412, "PreconditionFailed") if standing[1] != version else None
        return None

    def _kept(self, body: bytes) -> bytes:
        return bytes([body[0] ^ 1]) + body[1:] if "damages" in self.quirks and len(body) > 100 else body

    def _etag(self, body: bytes) -> str:
        if "opaque etags" in self.quirks:
            return f'"{len(self.asked)}"'
        return f'"{md5_of(self._kept(body))}"'

    def _metadata(self, asked: Asked) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in asked.headers.items() if name.startswith("x-amz-meta-"))

    def _put(self, asked: Asked, body: bytes, etag: str) -> Answer:
        self.objects[asked.key] = (body, etag, self._metadata(asked))
        return Answer(200, b"", (("ETag", etag),))

    def _listing(self, asked: Asked) -> Answer:
        bucket, prefix = asked.key.strip("/"), asked.query.get("prefix", [""])[0]
        found = sorted(key for key in self.objects if key.startswith(f"{bucket}/{prefix}"))
        keys = [(key.removeprefix(f"{bucket}/"), len(self.objects[key][0])) for key in found]
        return listing(keys)

    def _get(self, asked: Asked) -> Answer:
        if asked.key not in self.objects:
            return refusal(404, "NoSuchKey")
        body, etag, metadata = self.objects[asked.key]
        headers = (("ETag", etag), *metadata)
        start = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if start is None:
            return Answer(200, body, headers)
        span = ("Content-Range", f"bytes {start[1]}-{len(body) - 1}/{len(body)}")
        return Answer(206, body[int(start[1]) :], (*headers, span))


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def answer_of(name: str, **values: str) -> Answer:
    inside = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in values.items())
    return Answer(200, f"<{name}>{inside}</{name}>".encode())


def listing(keys: Iterable[tuple[str, int]], token: str | None = None) -> Answer:
    """Make a page of a listing; with a token there is more."""
    entries = "".join(f"<Contents><Key>{quote(key)}</Key><Size>{size}</Size></Contents>" for key, size in keys)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = "true" if token else "false"
    about = f"<IsTruncated>{truncated}</IsTruncated><EncodingType>url</EncodingType>"
    text = f"<ListBucketResult>{about}{more}{entries}</ListBucketResult>"
    return Answer(200, text.encode())


@contextmanager
def other_store(certificate: tuple[Path, Path] | None = None) -> Iterator[OtherStore]:
    """Start a store, over TLS with a certificate and its key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qs(parts.query, keep_blank_values=True)
            asked = Asked(self.command, unquote(parts.path).lstrip("/"), query, headers)
            body = self.received()
            with store.lock:
                answer = store.answer(asked, body)
                known = (asked.key, parts.query, headers.get("if-match"), headers.get("if-none-match"))
                first = known not in store.answered
                store.answered.add(known)
            if "loses answers" in store.quirks and self.command == "PUT" and first:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            whole = isinstance(answer.body, bytes)
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body)))
            self.close_connection = not whole
            self.end_headers()
            if self.command != "HEAD":
                for piece in [answer.body] if isinstance(answer.body, bytes) else answer.body:
                    self.wfile.write(piece)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815  the library's names

        def received(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
                return body
            content, rest = b"", body
            while True:
                line, _, rest = rest.partition(b"\r\n")
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    return content
                content, rest = content + rest[:size], rest[size + 2 :]

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away in the middle is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    store = OtherStore(f"{scheme}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that nobody else has signed, for the loopback; return its file and its key's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    folder.joinpath("store.pem").write_bytes(certificate.public_bytes(encoding))
    folder.joinpath("store.key").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "store.pem", folder / "store.key"


def slowly(piece: bytes, seconds: float, times: int) -> Iterator[bytes]:
    for _ in range(times):
        yield piece
        time.sleep(seconds)
