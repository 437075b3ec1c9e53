"""How S3 is asked: answers have a largest size and a least pace, and busy stores are asked again a few times.

Botocore reads an answer whole, however large it is and however slowly it comes. A store may be anybody's, so its
answers go through a handler of `before-send`, by which botocore lets others send its requests.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

CONNECT_SECONDS, READ_SECONDS = 10, 30
MAX_ANSWER = 16 * 1024 * 1024  # a listing of 1000 keys has some 3 MB at most
SLOWEST = 1024  # bytes a second
SECONDS_OF_PATIENCE = 60.0
_PIECE = 256 * 1024
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class AnswerError(Exception):
    """An answer is too large, or comes too slowly."""


def paced(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Hand on what comes; the time that the receiver takes is not counted.

    Raises:
        AnswerError: for a minute less than a kilobyte a second came.
    """
    seconds, received = 0.0, 0
    while True:
        begun = time.monotonic()
        piece = next(pieces, None)
        seconds += time.monotonic() - begun
        if piece is None:
            return
        received += len(piece)
        if seconds > SECONDS_OF_PATIENCE:
            if received < SLOWEST * seconds:
                raise AnswerError(
                    f"only {received} bytes came in {seconds:.0f} s; find out what holds them up, and run again"
                )
            seconds, received = 0.0, 0
        yield piece


class Body:
    """An answer's body, as botocore reads it: `stream` for what is read whole, `read` for objects."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._pieces = paced(iter(lambda: raw.read1(_PIECE), b""))
        self._waiting = bytearray()

    def stream(self) -> Iterator[bytes]:
        """Yield the whole body.

        Raises:
            AnswerError: it is larger than any answer is, or comes too slowly.
        """
        size = 0
        for piece in self._pieces:
            size += len(piece)
            if size > MAX_ANSWER:
                raise AnswerError(f"the store answers with more than {MAX_ANSWER} bytes where a few are expected")
            yield piece

    def read(self, amount: int | None = None) -> bytes:
        """Read so many bytes, fewer at the end; or all that are left."""
        while amount is None or len(self._waiting) < amount:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting += piece
        content = bytes(self._waiting[:amount])
        del self._waiting[:amount]
        return content

    def close(self) -> None:
        """Close the connection, if there is more to come."""
        self._raw.close()


class Transport:
    """Sends a client's requests."""

    def __init__(self, endpoint_url: str, ca_bundle: str | None, num_connections: int) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        verify: Any = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._session = URLLib3Session(
            verify=verify,
            proxies=get_environ_proxies(endpoint_url),
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            max_pool_connections=num_connections,
            socket_options=[
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            ],
        )

    def send(self, request: Any, **_: object) -> Any:
        """Send a request, and return the answer; an object's content stays to be read."""
        from botocore.exceptions import ConnectionClosedError
        from urllib3.exceptions import HTTPError

        streamed, request.stream_output = request.stream_output, True
        answer = self._session.send(request)
        answer.raw = Body(answer.raw)
        if not streamed:
            try:
                _ = answer.content  # read now: what breaks here is asked again
            except HTTPError as error:
                raise ConnectionClosedError(error=error, endpoint_url=request.url) from error
        return answer


def seconds_until_again(response: Any, attempts: int, **_: object) -> float | None:
    """Say when to repeat a request that is refused because of others; None: not at all.

    This is a handler of `needs-retry`: it adds to what botocore repeats, which knows throttling by the names that
    Amazon gives it, and not the conflict of writers.
    """
    if response is None or attempts > len(PAUSES):
        return None
    if response[0].status_code not in {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}:
        return None
    return PAUSES[attempts - 1] * random.uniform(0.5, 1.0)
