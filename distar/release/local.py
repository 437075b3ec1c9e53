"""A store in a folder, `file://folder`, for one machine or a shared disk.

Everything is written aside and renamed, so a reader never sees half of it, whenever the writer was killed. Documents
change under one lock (flock), which ends with the process that holds it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from distar.atomic import written_whole
from distar.disk import refusal_told
from distar.errors import ReleaseError, StorageError
from distar.fetching.parallel import Work
from distar.fetching.source import FileMissingError, Pin
from distar.locking import wait_for_lock
from distar.release.storage import (
    CHUNK,
    MAX_DOCUMENT,
    Document,
    Store,
    blob_name,
    can_be_ours,
    changed_file,
    too_large,
)

_LOCK = ".lock"
_REMEDY = "check the store's folder, and who may read and write it"
_NO_FILES = {errno.ELOOP, errno.ENXIO}  # links that lead in a circle, sockets


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
        return cls(text, project / path) if path and path != text and "\0" not in path else None

    def has_blob(self, pin: Pin) -> bool:
        """Say whether the blob is there; it was renamed to its place whole, so its size is all that is looked at."""
        path = self._path(blob_name(pin["sha256"]))
        with refusal_told(path, _REMEDY):
            return path.is_file() and path.stat().st_size == pin["bytes"]

    def put_blob(self, path: Path, pin: Pin, work: Work) -> None:
        """Copy a file, hashing what is copied; it is renamed to its place if the hash is the pinned one."""
        digest, target = hashlib.sha256(), self._path(blob_name(pin["sha256"]))
        with refusal_told(target, _REMEDY), written_whole(target) as partial:
            with path.open("rb") as file, partial.open("xb") as copy:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
                    work.count(len(chunk))
            if digest.hexdigest() != pin["sha256"]:
                raise changed_file(path, pin, digest.hexdigest())

    @contextmanager
    def open_blob(self, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob at byte `start`.

        Raises:
            FileMissingError: there is none.
            ReleaseError: it is no file, or may not be read.
            StorageError: the system refuses otherwise.
        """
        path = self._path(blob_name(sha256))
        with ExitStack() as stack:
            with refusal_told(path, _REMEDY):
                try:
                    file = stack.enter_context(_opened(path))
                except FileNotFoundError:
                    raise FileMissingError(f"{path}: there is no such file") from None
                except PermissionError as error:  # of this blob: it says nothing about the others
                    raise ReleaseError(f"{path}: {error.strerror}; {_REMEDY}") from error
                file.seek(start)
            yield _chunks(file, path)

    def read(self, name: str) -> Document | None:
        """Read a document; its version is the sha256 of its content."""
        path = self._path(name)
        with refusal_told(path, _REMEDY):
            try:
                with _opened(path) as file:
                    content = file.read(MAX_DOCUMENT + 1)
            except FileNotFoundError:
                return None
        if len(content) > MAX_DOCUMENT:
            raise too_large(str(path))
        return Document(content, hashlib.sha256(content).hexdigest())

    def create(self, name: str, content: bytes) -> bool:
        """Write a document if there is none."""
        return self._write(name, content, None)

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Replace a document if it is of that version."""
        return self._write(name, content, version)

    def require(self) -> None:
        """Require that the folder is there."""
        with refusal_told(self.root, _REMEDY):
            there = self.root.exists()
        if not there:
            raise ReleaseError(f"{self.place}: there is no such folder; check the store's URL, or publish a release")

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`; what cannot be a name of ours is left out.

        A folder or a link that has a name of ours is listed too: what reads it tells that it is no file.
        """
        found = []
        for folder, subfolders, files in os.walk(self._path(prefix.rpartition("/")[0]), onerror=_unless_missing):
            found += [(Path(folder) / name).relative_to(self.root).as_posix() for name in (*subfolders, *files)]
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # unfinished files lie in those
        return sorted(name for name in found if name.startswith(prefix) and can_be_ours(name))

    def _write(self, name: str, content: bytes, version: str | None) -> bool:
        lock = self.root / _LOCK
        with refusal_told(lock, _REMEDY), wait_for_lock(lock, time.sleep):
            standing = self.read(name)
            if (standing and standing.version) != version:
                return False
            with written_whole(self._path(name)) as partial:
                partial.write_bytes(content)
            return True

    def _path(self, name: str) -> Path:
        return self.root / name


def _chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    with refusal_told(path, _REMEDY):
        while chunk := file.read(CHUNK):
            yield chunk


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StorageError(f"{error.filename}: {error.strerror}; {_REMEDY}") from error


def _opened(path: Path) -> BinaryIO:
    """Open a file to read it: nothing that waits, such as a named pipe without a writer.

    Raises:
        ReleaseError: it is something else than a file.
        FileNotFoundError: there is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILES or (error.errno == errno.ENOENT and path.is_symlink()):
            raise _no_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return os.fdopen(descriptor, "rb")


def _no_file(path: Path) -> ReleaseError:
    return ReleaseError(f"{path} is no file, but a folder, a pipe, a device, or a link that leads to none; remove it")
