"""A bucket of S3: objects are listed, read and sent, and whatever goes wrong is told in one line.

Credentials, endpoint, region, proxies, number of tries and checksums are what the environment and the AWS config file
say.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distar.credentials import refuse_in_environment, refuse_more_than_an_address
from distar.errors import DistarError, StorageError
from distar.fetching.credential_process import tell_status_alone
from distar.fetching.parallel import NUM_THREADS
from distar.fetching.s3_errors import ConditionError, name_of_endpoint, s3_error
from distar.fetching.source import FileMissingError, Pin, TemporaryError
from distar.fetching.transport import CONNECT_SECONDS, READ_SECONDS, Transport, seconds_until_again

PART_SIZE = 8 * 1024 * 1024
CHUNK = 1024 * 1024
_MAX_PARTS = 10_000  # S3's own limit
_MAX_PAGES = 200  # of 1000 keys each
_PAUSES = (0.1, 0.4, 1.6)


class ChangedFileError(Exception):
    """A file that is being sent is not the pinned one."""


class Opened(NamedTuple):
    """An object's content from a byte on, and what the store says of it."""

    about: Mapping[str, Any]
    chunks: Iterator[bytes]


class Bucket:
    """A bucket, asked by one client."""

    def __init__(self, name: str, endpoint_url: str | None = None) -> None:
        """Make the client; nothing is asked yet.

        Raises:
            StorageError: a setting of S3 is wrong.
            ParameterError: an address of S3 holds what may be credentials.
        """
        self.name = name
        self._endpoint_url = endpoint_url
        self._in_parts = threading.Lock()  # the parts of one file fill memory and connections
        with self._told(self.shown("")):
            self.client = _client(endpoint_url)

    def shown(self, key: str) -> str:
        """Return an object as messages name it."""
        return f"s3://{self.name}/{key}"

    def head(self, key: str) -> Mapping[str, Any]:
        """Return what the store says of an object.

        Raises:
            FileMissingError: there is none.
            StorageError: the store refuses, or cannot be reached.
        """
        validated = self.client.meta.config.response_checksum_validation == "when_supported"
        return self._ask("head_object", key, **({"ChecksumMode": "ENABLED"} if validated else {}))

    @contextmanager
    def opened(self, key: str, start: int = 0) -> Iterator[Opened]:
        """Open an object at byte `start`.

        Raises:
            FileMissingError, StorageError: as `head`; RangeError if it has no such byte.
            TemporaryError: the connection broke while the chunks were read.
        """
        answer = self._ask("get_object", key, **({"Range": f"bytes={start}-"} if start else {}))
        with closing(answer["Body"]) as body:
            yield Opened(answer, self._chunks(body, self.shown(key)))

    def read(self, key: str, limit: int) -> tuple[bytes, str] | None:
        """Return a small object's content, cut after `limit` + 1 bytes, and its ETag; None if there is none.

        Raises:
            StorageError: as `head`.
        """
        pauses = iter(_PAUSES)
        while True:
            try:
                with self.opened(key) as (about, chunks):
                    content = bytearray()
                    for chunk in chunks:
                        content += chunk
                        if len(content) > limit:
                            break
                    if not about.get("ETag"):
                        raise StorageError(f"{self.shown(key)}: the store gives no ETag, by which versions are told")
                    return bytes(content[: limit + 1]), about["ETag"]
            except FileMissingError:
                return None
            except TemporaryError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise StorageError(f"{error} (tried {len(_PAUSES) + 1} times)") from error
                time.sleep(pause)

    def write(self, key: str, content: bytes, **condition: str) -> bool:
        """Write a small object; say whether its condition (IfNoneMatch, IfMatch) held.

        Raises:
            StorageError: as `head`.
        """
        try:
            self._ask("put_object", key, Body=content, ContentType="application/json", **condition)
        except ConditionError:
            return False
        except FileMissingError as error:
            if "IfMatch" in condition:
                return False
            raise StorageError(str(error)) from error
        return True

    def remove(self, key: str) -> bool:
        """Remove an object, and say whether it is gone: who publishes need not have the permission."""
        with suppress(DistarError):
            self._ask("delete_object", key)
            return True
        return False

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the sizes of all objects whose keys begin with `prefix`.

        Raises:
            StorageError: as `head`; or the listing comes to no end.
        """
        found, token, tokens = dict[str, int](), dict[str, str](), set[str]()
        for _ in range(_MAX_PAGES):
            page = self._ask("list_objects_v2", prefix, Prefix=prefix, **token)
            for entry in page.get("Contents", ()):
                if entry.get("Key", "").startswith(prefix) and "Size" in entry:
                    found[entry["Key"]] = entry["Size"]
            if "IsTruncated" not in page:
                raise StorageError(
                    f"{self.shown(prefix)}: the store answers what is no list of objects; check the endpoint"
                )
            if not page["IsTruncated"]:
                return found
            following = page.get("NextContinuationToken")
            if not following or following in tokens:
                raise StorageError(
                    f"{self.shown(prefix)}: the store's list of objects comes to no end (it says that there is more, "
                    "and not from where on); the store is at fault"
                )
            tokens.add(following)
            token = {"ContinuationToken": following}
        raise StorageError(
            f"{self.shown(prefix)}: the list of objects has more than {_MAX_PAGES} pages; name a folder with fewer"
        )

    def send(
        self, path: Path, key: str, pin: Pin, count: Callable[[int], object], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Send a file that is read and hashed once; `count` is told of the bytes, and may raise to give up.

        The object appears whole or not at all. Afterwards it is compared with what was sent.

        Raises:
            ChangedFileError: the file is not the pinned one; nothing is stored.
            StorageError: as `head`; or the store holds something else than what was sent.
        """
        from boto3.s3.transfer import TransferConfig

        size = int(pin["bytes"])
        part = max(PART_SIZE, -(-size // _MAX_PARTS))
        config = TransferConfig(
            multipart_threshold=part,
            multipart_chunksize=part,
            max_concurrency=NUM_THREADS,
            preferred_transfer_client="classic",
        )
        with path.open("rb") as file, self._in_parts if size >= part else nullcontext():
            content = _Content(file, pin, part, count)
            with self._told(self.shown(key), content):
                self.client.upload_fileobj(
                    content,
                    self.name,
                    key,
                    Config=config,
                    ExtraArgs={"Metadata": dict(metadata or {})},
                    Callback=content.sent,
                )
        if content.problem is not None:
            raise content.problem
        self._check_sent(key, pin, content.etag)

    def sha256(self, key: str) -> str:
        """Hash an object's content.

        Raises:
            FileMissingError, StorageError, TemporaryError: as `opened`.
        """
        digest = hashlib.sha256()
        with self.opened(key) as (_, chunks):
            for chunk in chunks:
                digest.update(chunk)
        return digest.hexdigest()

    def _check_sent(self, key: str, pin: Pin, etag: str) -> None:
        """Compare an object with what was sent: by the ETag or checksum that the store made, or else read back."""
        try:
            about = self.head(key)
            problem = f"has {about.get('ContentLength')} bytes, and {pin['bytes']} were sent"
            if about.get("ContentLength") == pin["bytes"]:
                checked = any(name.startswith("Checksum") and name != "ChecksumType" for name in about)
                if about.get("ETag", "").strip('"') == etag or checked:
                    return
                got = self.sha256(key)
                if got == pin["sha256"]:
                    return
                problem = f"has the sha256 {got}, and {pin['sha256']} was sent"
        except FileMissingError:
            problem = "is not there, though the store took it"
        except TemporaryError as error:
            raise StorageError(str(error)) from error
        gone = "it was removed" if self.remove(key) else "remove it"
        raise StorageError(f"{self.shown(key)} {problem}: the store, or what stands before it, is at fault; {gone}")

    def _chunks(self, body: Any, url: str) -> Iterator[bytes]:
        while True:
            with self._told(url, reading=True):
                chunk = body.read(CHUNK)
            if not chunk:
                return
            yield chunk

    def _ask(self, operation: str, key: str, **parameters: object) -> Any:
        place = {"Bucket": self.name} if operation == "list_objects_v2" else {"Bucket": self.name, "Key": key}
        with self._told(self.shown(key)):
            return getattr(self.client, operation)(**place, **parameters)

    @contextmanager
    def _told(self, url: str, content: _Content | None = None, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the client's own errors have no common base, nor have those of its settings
            if content is not None and content.problem is not None:
                raise content.problem from None
            if isinstance(error, DistarError):
                raise
            where = self.client.meta.endpoint_url if hasattr(self, "client") else "S3"
            raise s3_error(error, url, self._endpoint_url, where, reading) from error


class _Content:
    """A file's content, given out once; its last byte only if all of it is the pinned one."""

    def __init__(self, file: BinaryIO, pin: Pin, part: int, count: Callable[[int], object]) -> None:
        self._file, self._pin, self._part, self._count = file, pin, part, count
        self._size, self._sha256 = 0, hashlib.sha256()
        self._md5, self._md5s = hashlib.md5(usedforsecurity=False), list[bytes]()
        self.problem: Exception | None = None

    def read(self, amount: int = -1) -> bytes:
        """Read so many bytes, or all that are left.

        Raises:
            Exception: what the count raised, to give up.
            ChangedFileError: the file is not the pinned one.
        """
        try:
            self._count(0)
            piece = self._file.read(amount)
            self._add(piece)
            if self._size >= int(self._pin["bytes"]) or not piece:
                self._check()
        except Exception as error:
            self.problem = error
            raise
        return piece

    def sent(self, num_bytes: int) -> None:
        """Count what was sent. Who counts may give up, but not here: it would be taken for a broken connection."""
        try:
            self._count(num_bytes)
        except Exception as error:
            self.problem = error  # the next read raises it, too

    def _check(self) -> None:
        if (self._size, self._sha256.hexdigest()) != (self._pin["bytes"], self._pin["sha256"]):
            raise ChangedFileError

    @property
    def etag(self) -> str:
        """The ETag that S3 gives what was read: its MD5, or that of its parts' MD5s and their number."""
        if self._size < self._part:
            return self._md5.hexdigest()
        parts = self._md5s + [self._md5.digest()] * bool(self._size % self._part)
        return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"

    def _add(self, piece: bytes) -> None:
        self._sha256.update(piece)
        rest = memoryview(piece)
        while rest:
            here, rest = rest[: (room := self._part - self._size % self._part)], rest[room:]
            self._md5.update(here)
            self._size += len(here)
            if self._size % self._part == 0:
                self._md5s.append(self._md5.digest())
                self._md5 = hashlib.md5(usedforsecurity=False)


def _client(endpoint_url: str | None) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    refuse_in_environment(*sorted(name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")))
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=2 * NUM_THREADS,
        retries={"mode": "standard"},
    )
    core = botocore.session.Session()  # the default session would keep the first credentials
    tell_status_alone(core)
    client = boto3.Session(botocore_session=core).client("s3", endpoint_url=endpoint_url, config=config)
    address = client.meta.endpoint_url
    refuse_more_than_an_address(address, name_of_endpoint(endpoint_url, address))
    transport = Transport(address, core.get_config_variable("ca_bundle"), 2 * NUM_THREADS)
    client.meta.events.register("before-send.s3", transport.send)
    client.meta.events.register("needs-retry.s3", seconds_until_again)
    return client
