"""A store in S3, `s3://bucket/prefix`: blobs named by their content, documents under conditions.

Documents are never overwritten but aliases, and those only in the version that was read (If-Match). A blob's sha256
stands in its object's metadata. Not every store keeps conditions, and some ignore them in silence: each is asked before
anything is written.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from distar.disk import refusal_told
from distar.errors import StorageError
from distar.fetching.bucket import PART_SIZE, Bucket, ChangedFileError
from distar.fetching.parallel import Work
from distar.fetching.s3_errors import ConflictError, NotUnderstoodError, RangeError
from distar.fetching.source import FileMissingError, Pin
from distar.hashing import sha256_of
from distar.release.storage import MAX_DOCUMENT, Document, Store, blob_name, can_be_ours, changed_file, too_large

__all__ = ["PART_SIZE", "S3Store"]

_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]+)(?:/(?P<prefix>[^\x00-\x1f]*[^/\x00-\x1f]))?/?")


class S3Store(Store):
    """A bucket, or a folder of it."""

    def __init__(self, url: str, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self.url = url
        self.bucket = Bucket(bucket, endpoint_url)
        self._folder = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()
        self._asked: Future[None] | None = None

    @property
    def place(self) -> str:
        """The URL and the S3 server."""
        return f"{self.url} at {self.bucket.client.meta.endpoint_url}"

    @classmethod
    def parse(cls, text: str, endpoint_url: str | None) -> S3Store | None:
        """Understand `s3://bucket/prefix`, or return None."""
        match = _URL.fullmatch(text)
        return cls(text, match["bucket"], match["prefix"] or "", endpoint_url) if match else None

    def has_blob(self, pin: Pin) -> bool:
        """Say whether the blob is there, by its size and the sha256 in its metadata."""
        try:
            about = self.bucket.head(self._key(blob_name(pin["sha256"])))
        except FileMissingError:
            return False
        return about.get("ContentLength") == pin["bytes"] and about.get("Metadata", {}).get("sha256") == pin["sha256"]

    def put_blob(self, path: Path, pin: Pin, work: Work) -> None:
        """Send a file, in parts if it is large; the bytes that are hashed are the bytes that are sent."""
        self._require_conditions()
        key = self._key(blob_name(pin["sha256"]))
        try:
            with refusal_told(path, "check who may read it"):
                self.bucket.send(path, key, pin, work.count, {"sha256": str(pin["sha256"])})
        except ChangedFileError:
            raise changed_file(path, pin, sha256_of(path)) from None

    @contextmanager
    def open_blob(self, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob at byte `start`."""
        key = self._key(blob_name(sha256))
        with ExitStack() as stack:
            try:
                about, chunks = stack.enter_context(self.bucket.opened(key, start))
            except RangeError:
                yield iter(())  # all of it came before
                return
            if start and "ContentRange" not in about:
                raise StorageError(
                    f"{self.bucket.shown(key)}: asked for the bytes from {start} on, the store sends all; run again"
                )
            yield chunks

    def read(self, name: str) -> Document | None:
        """Read a document; its version is its ETag."""
        found = self.bucket.read(self._key(name), MAX_DOCUMENT)
        if found is None:
            return None
        content, version = found
        if len(content) > MAX_DOCUMENT:
            raise too_large(self.bucket.shown(self._key(name)))
        return Document(content, version)

    def create(self, name: str, content: bytes) -> bool:
        """Write a document if there is none (If-None-Match)."""
        self._require_conditions()
        return self.bucket.write(self._key(name), content, IfNoneMatch="*")

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Replace a document if it is of that version (If-Match)."""
        self._require_conditions()
        return self.bucket.write(self._key(name), content, IfMatch=version)

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`; what cannot be a name of ours is left out."""
        names = (key.removeprefix(self._folder) for key in self.bucket.sizes(self._key(prefix)))
        return sorted(name for name in names if can_be_ours(name))

    def require(self) -> None:
        """Ask nothing: a bucket that is not there refuses to be listed, and a folder of it needs no making."""

    def _require_conditions(self) -> None:
        """Ask the store once whether it keeps conditions; who comes meanwhile waits for the answer.

        Raises:
            StorageError: it does not, or cannot be asked (then the next writer asks again).
        """
        with self._lock:
            asked, ours = self._asked, self._asked is None
            if asked is None:
                asked = self._asked = Future()
        if ours:
            try:
                self._ask()
            except BaseException as error:
                self._asked = None
                asked.set_exception(error)
            else:
                asked.set_result(None)
        asked.result()

    def _ask(self) -> None:
        key = self._key(f"probes/{uuid4().hex}.json")
        try:
            fault = self._fault(key)
        except (ConflictError, NotUnderstoodError) as error:
            self.bucket.write(key, b"{}")  # raises what has nothing to do with conditions
            fault = str(error)
        self.bucket.remove(key)  # who may not remove it leaves it: docs/releases.md
        if fault is not None:
            raise StorageError(
                f"{self.url}: this store keeps no conditions ({fault}). Of two who publish or promote at once both "
                "would be told that they did, and the work of one would be lost. Use a store that knows If-None-Match "
                "and If-Match (docs/releases.md names some), or a folder (file://)"
            )

    def _fault(self, key: str) -> str | None:
        """Try conditions on a document that nobody else knows; say what is wrong with them.

        The client repeats a request whose answer was lost, and is then refused because of its own first one. So what
        stands there is looked at before a refusal is believed.
        """
        one, two, three = (b'{"probe": %d}\n' % i for i in range(3))
        if not self.bucket.write(key, one, IfNoneMatch="*") and not self._stands(key, one):
            return "it refuses to create what does not exist, told to by If-None-Match"
        standing = self.bucket.read(key, MAX_DOCUMENT)
        if standing is None or standing[0] != one:
            return "it does not give back what it was given"
        if self.bucket.write(key, two, IfNoneMatch="*"):
            return "it overwrites what exists, told not to by If-None-Match"
        if not self.bucket.write(key, two, IfMatch=standing[1]) and not self._stands(key, two):
            return "it refuses to replace the version that it names, told to by If-Match"
        if self.bucket.write(key, three, IfMatch=standing[1]):
            return "it replaces what was changed meanwhile, told not to by If-Match"
        return None

    def _stands(self, key: str, content: bytes) -> bool:
        standing = self.bucket.read(key, MAX_DOCUMENT)
        return standing is not None and standing[0] == content

    def _key(self, name: str) -> str:
        return f"{self._folder}{name}"
