"""A store in S3, `s3://bucket/prefix`: blobs in parts that are hashed as they are sent, documents under conditions.

Nothing is overwritten but aliases, and those only in the version that was read (If-Match). A blob's sha256 stands in
its object's metadata, for the checksum that S3 computes of an object sent in parts is another one.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from distar.errors import ReleaseError, StorageError
from distar.fetching.parallel import NUM_THREADS, Work
from distar.fetching.s3 import s3_client, s3_errors_told
from distar.fetching.source import FileMissingError, Pin, TemporaryError
from distar.release.storage import CHUNK, Document, Store, blob_name, changed_file

PART_SIZE = 8 * 1024 * 1024
_MAX_PARTS = 10_000  # S3's own limit
_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]+)(?:/(?P<prefix>.*[^/]))?/?")


class S3Store(Store):
    """A bucket, or a folder of it."""

    def __init__(self, url: str, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self.url = url
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._client = s3_client(endpoint_url)
        self._uploaders = ThreadPoolExecutor(NUM_THREADS)  # shared by all files that are being sent
        self._parts_in_memory = threading.BoundedSemaphore(NUM_THREADS + 2)

    @property
    def place(self) -> str:
        """The URL and the S3 server."""
        return f"{self.url} at {self._client.meta.endpoint_url}"

    @classmethod
    def parse(cls, text: str, endpoint_url: str | None) -> S3Store | None:
        """Understand `s3://bucket/prefix`, or return None."""
        match = _URL.fullmatch(text)
        return cls(text, match["bucket"], match["prefix"] or "", endpoint_url) if match else None

    def has_blob(self, pin: Pin) -> bool:
        """Say whether the blob is there, by its size and the sha256 in its metadata."""
        name = blob_name(pin["sha256"])
        try:
            with self._told(name):
                head = self._client.head_object(**self._object(name))
        except FileMissingError:
            return False
        return head["ContentLength"] == pin["bytes"] and head["Metadata"].get("sha256") == pin["sha256"]

    def put_blob(self, path: Path, pin: Pin, work: Work) -> None:
        """Send a file, in parts if it is large, each part hashed and sent from the same memory."""
        send = self._send_in_parts if path.stat().st_size > PART_SIZE else self._send_at_once
        with self._told(blob_name(pin["sha256"])):
            if not _condition_held(lambda: send(path, pin, work)):
                self._check_standing(pin)

    @contextmanager
    def open_blob(self, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob at byte `start`."""
        url = self._shown(blob_name(sha256))
        wanted = {"Range": f"bytes={start}-"} if start else {}
        with s3_errors_told(url, self._endpoint_url):
            answer = self._client.get_object(**self._object(blob_name(sha256)), **wanted)
            with closing(answer["Body"]) as body:
                if start and "ContentRange" not in answer:
                    raise StorageError(f"{url}: asked for the bytes from {start} on, the store sends all; run again")
                yield body.iter_chunks(CHUNK)

    def read(self, name: str) -> Document | None:
        """Read a document; its version is its ETag."""
        try:
            with self._told(name):
                answer = self._client.get_object(**self._object(name))
                with closing(answer["Body"]) as body:
                    return Document(body.read(), answer["ETag"])
        except FileMissingError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Write a document if there is none (If-None-Match)."""
        return self._write(name, content, IfNoneMatch="*")

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Replace a document if it is of that version (If-Match)."""
        return self._write(name, content, IfMatch=version)

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`."""
        with self._told(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._folder + prefix
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return sorted(key.removeprefix(self._folder) for key in keys)

    def _write(self, name: str, content: bytes, **condition: str) -> bool:
        document = {**self._object(name), "Body": content, "ContentType": "application/json", **condition}
        with self._told(name):
            return _condition_held(lambda: self._client.put_object(**document))

    def _send_at_once(self, path: Path, pin: Pin, work: Work) -> None:
        with self._parts_in_memory:
            content = path.read_bytes()
            _check(hashlib.sha256(content), path, pin)
            sending = self._uploaders.submit(
                self._client.put_object,
                **self._object(blob_name(pin["sha256"])),
                Body=content,
                ChecksumSHA256=b64encode(bytes.fromhex(str(pin["sha256"]))).decode(),
                Metadata={"sha256": pin["sha256"]},
                IfNoneMatch="*",
            )
            sending.result()
        work.count(len(content))

    def _send_in_parts(self, path: Path, pin: Pin, work: Work) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        place = self._object(blob_name(pin["sha256"]))
        upload = self._client.create_multipart_upload(
            **place, Metadata={"sha256": pin["sha256"]}, ChecksumAlgorithm="CRC32"
        )
        place["UploadId"] = upload["UploadId"]
        digest, parts, sending = hashlib.sha256(), [], deque[Future[dict[str, object]]]()
        try:
            with path.open("rb") as file:
                for number, part in enumerate(self._parts(file), start=1):
                    digest.update(part)
                    sending.append(self._uploaders.submit(self._send_part, place, number, part, work))
                    sending[-1].add_done_callback(lambda _: self._parts_in_memory.release())
                    while sending and sending[0].done():
                        parts.append(sending.popleft().result())
            parts += [one.result() for one in sending]
            _check(digest, path, pin)
            self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            for one in sending:
                one.cancel()
            wait(sending)  # a part that arrived after the abort would stay
            with suppress(BotoCoreError, ClientError):  # what went wrong before is what must be told
                self._client.abort_multipart_upload(**place)
            raise

    def _parts(self, file: BinaryIO) -> Iterator[bytes]:
        """Read a file in parts, each as soon as there is room for it in memory."""
        size = max(PART_SIZE, -(-os.fstat(file.fileno()).st_size // _MAX_PARTS))
        while True:
            self._parts_in_memory.acquire()
            part = file.read(size)
            if not part:
                self._parts_in_memory.release()
                return
            yield part

    def _send_part(self, place: dict[str, str], number: int, part: bytes, work: Work) -> dict[str, object]:
        answer = self._client.upload_part(**place, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32")
        work.count(len(part))
        checksums = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
        return {"PartNumber": number, **checksums}

    def _check_standing(self, pin: Pin) -> None:
        """Check what stands at a blob's place: another publisher's, or what some other tool copied there.

        Raises:
            ReleaseError: it is not the blob.
        """
        if self.has_blob(pin):
            return
        digest = hashlib.sha256()
        with self.open_blob(str(pin["sha256"])) as chunks:
            for chunk in chunks:
                digest.update(chunk)
        if digest.hexdigest() != pin["sha256"]:
            raise ReleaseError(
                f"{self._shown(blob_name(pin['sha256']))} is damaged: its content's sha256 is {digest.hexdigest()}; "
                "remove it and publish again"
            )

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._folder + name}

    def _shown(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._folder}{name}"

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            with s3_errors_told(self._shown(name), self._endpoint_url):
                yield
        except TemporaryError as error:  # after as many tries as the client makes
            raise StorageError(str(error)) from error


def _condition_held(request: Callable[[], object]) -> bool:
    """Make a request that S3 carries out under a condition alone; say whether it did."""
    from botocore.exceptions import ClientError

    while True:
        try:
            request()
        except ClientError as error:
            match error.response["Error"]["Code"]:
                case "PreconditionFailed" | "NoSuchKey":
                    return False
                case "ConditionalRequestConflict":  # another write was in flight: S3 asks to try again
                    continue
                case _:
                    raise
        return True


def _check(digest: Any, path: Path, pin: Pin) -> None:
    if digest.hexdigest() != pin["sha256"]:
        raise changed_file(path, pin, digest.hexdigest())
