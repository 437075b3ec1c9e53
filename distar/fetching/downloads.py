"""Downloads that go on where they stopped, into a folder of files named by their sha256.

    HASH            a whole file, checked
    HASH.partial    what has come of it so far
    HASH.lock       held by the process that downloads it; others wait, and find the file

The folder may be emptied at any time when nothing is being fetched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

from distar.disk import full_disk_told, refusal_told
from distar.errors import ModelFileError
from distar.fetching.parallel import Work
from distar.fetching.source import FileMissingError, Known, Pin, Reading, Source, TemporaryError
from distar.hashing import check_file, sha256_of
from distar.locking import wait_for_lock
from distar.paths import project_folder

SECONDS_BETWEEN_TRIES = (1.0, 2.0, 4.0, 8.0, 16.0)
_REMEDY = "let DISTAR_DOWNLOADS name a folder that can be read and written"
LONGEST_WAIT = 300.0  # a server that asks for more is told of, rather than waited for

Result = TypeVar("Result")


class Wanted(NamedTuple):
    """A pinned file of a source, and the mirror that may have it."""

    source: Source
    name: str
    pin: Pin
    mirror: Source | None = None

    @property
    def shown_as(self) -> str:
        """The file as messages name it."""
        return f"{self.source.url}/{self.name}"

    @property
    def sha256(self) -> str:
        """The pinned hash."""
        return str(self.pin["sha256"])

    @property
    def num_bytes(self) -> int:
        """The pinned size."""
        return int(self.pin["bytes"])

    @property
    def origins(self) -> list[tuple[Source, str]]:
        """Where the file may be, the mirror first."""
        mirrored = [(self.mirror, mirrored_name(self.sha256))] if self.mirror else []
        return [
            (source, place) for source, name in [*mirrored, (self.source, self.name)] for place in source.places(name)
        ]


def downloads_dir() -> Path:
    """Where downloads are kept: `DISTAR_DOWNLOADS`, or `.distar/downloads` in the project."""
    return project_folder() / os.environ.get("DISTAR_DOWNLOADS", ".distar/downloads")


def mirrored_name(sha256: str) -> str:
    """Return a file's name in a mirror."""
    return f"sha256/{sha256}"


def bytes_of_partials(files: Iterable[Wanted]) -> int:
    """Return how many bytes of these files came in earlier runs that were stopped."""
    partials = [downloads_dir() / f"{sha256}.partial" for sha256 in {file.sha256 for file in files}]
    return sum(path.stat().st_size for path in partials if path.exists())


def obtain(file: Wanted, work: Work) -> Path:
    """Return a path on this machine that holds the file: its source's, or that of its download.

    Raises:
        ModelFileError, StorageError: as `distar.fetching.fetch`.
    """
    for source, place in file.origins:
        path = source.at_hand(place, file.pin)
        if path is not None:
            work.count(file.num_bytes)
            return path
    whole = downloads_dir() / file.sha256
    with refusal_told(whole, _REMEDY), wait_for_lock(whole.with_suffix(".lock"), work.wait):
        if whole.exists() and sha256_of(whole) == file.sha256:
            work.count(file.num_bytes)
            return whole
        partial = whole.with_suffix(".partial")
        if partial.exists() and partial.stat().st_size > file.num_bytes:
            partial.unlink()
        _download_from_first(file, partial, work)
        try:
            check_file(partial, file.pin, file.shown_as)
        except ModelFileError:
            partial.unlink()  # or the next run would go on from what is wrong
            raise
        os.replace(partial, whole)
    return whole


def digest(source: Source, known: Known, work: Work) -> str:
    """Return the sha256 of a file that is not pinned yet: download it, and keep it under its hash."""
    path = downloads_dir() / f"{uuid4().hex}.unpinned"
    with refusal_told(path, _REMEDY):
        with full_disk_told(path, "nothing was pinned"):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _download(source, known.place, known.num_bytes, path, work)
            sha256 = sha256_of(path)
            os.replace(path, path.with_name(sha256))
        finally:
            path.unlink(missing_ok=True)
    return sha256


def _download_from_first(file: Wanted, partial: Path, work: Work) -> None:
    *others, last = file.origins
    for source, place in others:
        try:
            return _download(source, place, file.num_bytes, partial, work)
        except FileMissingError:
            continue  # it may be at the next place
    return _download(*last, file.num_bytes, partial, work)


def _download(source: Source, place: str, size: int, partial: Path, work: Work) -> None:
    """Add to `partial` until it has `size` bytes."""
    with full_disk_told(partial, "nothing was half-written"):
        partial.touch()

    def go_on() -> None:
        start = partial.stat().st_size
        if start < size:
            with source.read(place, start) as reading:
                _append(reading, f"{source.url}: {place}", size, partial, work)

    with_retries(go_on, work.wait, lambda: partial.stat().st_size)


def with_retries(
    request: Callable[[], Result],
    wait: Callable[[float], object] = time.sleep,
    progress: Callable[[], int] = lambda: 0,
) -> Result:
    """Make a request until it succeeds; give up after several failures without any progress in between.

    Raises:
        ModelFileError: it kept failing, or the server asks for too long a wait.
    """
    failures, before = 0, progress()
    while True:
        try:
            return request()
        except TemporaryError as error:
            failures, before = (1 if progress() > before else failures + 1), progress()
            if failures > len(SECONDS_BETWEEN_TRIES):
                raise ModelFileError(f"{error} (tried {failures} times)") from error
            seconds = SECONDS_BETWEEN_TRIES[failures - 1] if error.retry_after is None else error.retry_after
            if seconds > LONGEST_WAIT:
                raise ModelFileError(f"{error} (the server asks to wait {seconds:.0f} s)") from error
            wait(seconds)


def _append(reading: Reading, shown_as: str, size: int, partial: Path, work: Work) -> None:
    if reading.num_bytes not in (None, size):
        raise ModelFileError(
            f"{shown_as}: expected {size} bytes, and the server offers {reading.num_bytes} ({reading.content_type}): "
            "this is not the pinned file; check the source, and what stands between this machine and its server"
        )
    written = reading.start
    with (
        full_disk_told(partial, "what has come is kept, and the next run goes on from there"),
        partial.open("r+b") as file,
    ):
        file.seek(reading.start)
        file.truncate()
        for chunk in reading.chunks:
            file.write(chunk)
            written += len(chunk)
            work.count(len(chunk))
            if written > size:
                break
    if written != size:
        partial.unlink()
        raise ModelFileError(
            f"{shown_as}: expected {size} bytes, got {'more' if written > size else written} "
            f"({reading.content_type}): this is not the pinned file; what came is removed, check the source"
        )
