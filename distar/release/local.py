"""A store in a folder, `file://folder`, for one machine or a shared disk.

Everything is written aside and renamed, so a reader never sees half of it, whenever the writer was killed. Documents
change under one lock (flock), which ends with the process that holds it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from distar.atomic import written_whole
from distar.errors import StorageError
from distar.fetching.parallel import Work
from distar.fetching.source import FileMissingError, Pin
from distar.locking import wait_for_lock
from distar.release.storage import CHUNK, Document, Store, blob_name, changed_file

_LOCK = ".lock"
_REFUSED = "{}: {}; check the store's folder, and who may read and write it"


@dataclass(frozen=True)
class LocalStore(Store):
    """A folder of this machine."""

    url: str
    root: Path

    @property
    def place(self) -> str:
        """The URL and the folder."""
        return f"{self.url} ({self.root.absolute()})"

    @classmethod
    def parse(cls, text: str, project: Path = Path()) -> LocalStore | None:
        """Understand `file://folder`, relative to the project, or return None."""
        path = text.removeprefix("file://")
        return cls(text, project / path) if path and path != text else None

    def has_blob(self, pin: Pin) -> bool:
        """Say whether the blob is there; it was renamed to its place whole, so its size is all that is looked at."""
        path = self._path(blob_name(pin["sha256"]))
        with _refusal_told(path):
            return path.is_file() and path.stat().st_size == pin["bytes"]

    def put_blob(self, path: Path, pin: Pin, work: Work) -> None:
        """Copy a file, hashing what is copied; it is renamed to its place if the hash is the pinned one."""
        digest, target = hashlib.sha256(), self._path(blob_name(pin["sha256"]))
        with _refusal_told(target), written_whole(target) as partial:
            with path.open("rb") as file, partial.open("xb") as copy:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
                    work.count(len(chunk))
            if digest.hexdigest() != pin["sha256"]:
                raise changed_file(path, pin, digest.hexdigest())

    @contextmanager
    def open_blob(self, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob at byte `start`."""
        path = self._path(blob_name(sha256))
        with _refusal_told(path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise FileMissingError(f"{path}: there is no such file") from None
        with file:
            file.seek(start)
            yield _chunks(file)

    def read(self, name: str) -> Document | None:
        """Read a document; its version is the sha256 of its content."""
        path = self._path(name)
        with _refusal_told(path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        return Document(content, hashlib.sha256(content).hexdigest())

    def create(self, name: str, content: bytes) -> bool:
        """Write a document if there is none."""
        return self._write(name, content, None)

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Replace a document if it is of that version."""
        return self._write(name, content, version)

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`; unfinished files lie in hidden folders, and are left out."""
        found = []
        for folder, subfolders, files in os.walk(self._path(prefix.rpartition("/")[0]), onerror=_unless_missing):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            found += [(Path(folder) / name).relative_to(self.root).as_posix() for name in files]
        return sorted(name for name in found if name.startswith(prefix) and name != _LOCK)

    def _write(self, name: str, content: bytes, version: str | None) -> bool:
        with _refusal_told(self._path(name)), wait_for_lock(self.root / _LOCK, time.sleep):
            standing = self.read(name)
            if (standing and standing.version) != version:
                return False
            with written_whole(self._path(name)) as partial:
                partial.write_bytes(content)
            return True

    def _path(self, name: str) -> Path:
        return self.root / name


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with _refusal_told(Path(file.name)):
        while chunk := file.read(CHUNK):
            yield chunk


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StorageError(_REFUSED.format(error.filename, error.strerror)) from error


@contextmanager
def _refusal_told(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into an error with a remedy.

    Raises:
        StorageError: it may not be read or written.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(_REFUSED.format(error.filename or path, error.strerror)) from error
