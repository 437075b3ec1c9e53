"""Where releases are kept, and the few things that every store can do; `distar.release.releases` builds on these alone.

    blobs/sha256/HASH       each distinct file, once; what stands there is whole
    attestations/ID/NAME    what is said about a release
    releases/ID.json        the manifest; ID is its sha256
    aliases/NAME.json       the release that NAME points at, and how it came there

Blobs are large and are streamed. All else are documents: small, read whole, and written under a condition, so that of
several writers one succeeds and the others know.

Whoever can write to a store can put anything there, so what it says is not trusted. A document has a largest size, and
no more of it is read. A listing holds only names that can be ours, by the patterns above: what has another name (a
marker of a folder, a stray file, a path with `..` or control characters) is nothing that releases, aliases or
attestations are read from, and is left out. What has a name of ours and is damaged is listed, and reading it fails.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from distar.errors import ReleaseError
from distar.fetching.parallel import Work
from distar.fetching.source import Pin

CHUNK = 1024 * 1024
MAX_DOCUMENT = 16 * 1024 * 1024
_OURS = re.compile(
    r"blobs/sha256/[0-9a-f]{64}"
    r"|attestations/[0-9a-f]{64}/[A-Za-z0-9][A-Za-z0-9._-]*"
    r"|releases/[0-9a-f]{64}\.json"
    r"|aliases/(?![0-9a-f]{8,64}\.json)[A-Za-z0-9][A-Za-z0-9._-]*\.json"
)


class Document(NamedTuple):
    """A document as it was read: its content, and the version to replace it by."""

    content: bytes
    version: str


class Store(ABC):
    """A store of releases. All methods may raise StorageError: it refuses, cannot be reached, or is full."""

    url: str

    @property
    @abstractmethod
    def place(self) -> str:
        """The URL and where it leads: the folder, or the S3 server, which the environment may name."""

    @abstractmethod
    def has_blob(self, pin: Pin) -> bool:
        """Say whether the blob is there, whole."""

    @abstractmethod
    def put_blob(self, path: Path, pin: Pin, work: Work) -> None:
        """Store a file that is read and hashed once; its bytes are counted. It appears whole or not at all.

        Raises:
            ReleaseError: the file's content is not the pinned one, and is not stored; or the store holds something
                else under its hash.
        """

    @abstractmethod
    def open_blob(self, sha256: str, start: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open a blob at byte `start`.

        Raises:
            FileMissingError: there is none.
            ReleaseError: what stands there is no blob: no file, or one that may not be read.
            TemporaryError: the connection broke, now or while the chunks were read.
        """

    @abstractmethod
    def read(self, name: str) -> Document | None:
        """Read a document, or return None if there is none.

        Raises:
            ReleaseError: what stands there is no document: it is too large, or no file.
        """

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a document; return False, and change nothing, if there is one already."""

    @abstractmethod
    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Replace a document; return False, and change nothing, if it is no longer of that version."""

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """Return the names of documents (or blobs) that begin with `prefix`, sorted: those that can be ours."""

    @abstractmethod
    def require(self) -> None:
        """Require that the store is there: only publishing makes one.

        Raises:
            ReleaseError: it is not.
        """


def open_store(url: str, endpoint_url: str | None = None, project: Path = Path()) -> Store:
    """Open the store that a URL names; nothing is asked of it yet.

    Args:
        url: `file://folder`, relative to the project, or `s3://bucket/prefix`.
        endpoint_url: where S3 is, if that is neither Amazon's nor what the environment names.
        project: the project's folder.

    Raises:
        ReleaseError: the URL is not understood.
    """
    from distar.release.local import LocalStore
    from distar.release.s3 import S3Store

    store = LocalStore.parse(url, project) or S3Store.parse(url, endpoint_url)
    if store is None:
        raise ReleaseError(f"the store {url!r} is not understood; expected file://folder or s3://bucket/prefix")
    return store


def blob_name(sha256: object) -> str:
    """Return a blob's name in a store."""
    return f"blobs/sha256/{sha256}"


def can_be_ours(name: str) -> bool:
    """Say whether a name can be that of a document or a blob."""
    return _OURS.fullmatch(name) is not None


def too_large(shown_as: str) -> ReleaseError:
    """Make the error for a document that is larger than any."""
    return ReleaseError(
        f"{shown_as} has more than {MAX_DOCUMENT} bytes: it is no document of a release; find out who writes there, "
        "and remove it"
    )


def changed_file(path: Path, pin: Pin, sha256: str) -> ReleaseError:
    """Make the error for a file that is no longer as the manifest says."""
    return ReleaseError(
        f"{path}: the manifest says {pin['bytes']} bytes with sha256 {pin['sha256']}; got {path.stat().st_size} bytes "
        f"with {sha256}: it was changed after it was packaged; run `dvc repro -f package`"
    )
