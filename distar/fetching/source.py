"""What every kind of source can do: say which files it has, and read one from any byte on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from distar.errors import ModelFileError

Pin = dict[str, str | int]
_PART = re.compile(r"(?!\.\.?$)[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


class FileMissingError(ModelFileError):
    """The source can be reached, but has no such file."""


class TemporaryError(Exception):
    """A request failed in a way that may pass; it is repeated, after `retry_after` seconds if the server says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Known(NamedTuple):
    """What a listing tells of a file: where it lies in the source, its size, and its sha256 if that is known."""

    place: str
    num_bytes: int
    sha256: str | None


class Reading(NamedTuple):
    """A file's bytes from `start` on (0 if the server ignores ranges), and how many the server says there are."""

    start: int
    num_bytes: int | None
    content_type: str
    chunks: Iterator[bytes]


@runtime_checkable
class Source(Protocol):
    """A folder of files somewhere."""

    @property
    def url(self) -> str:
        """The source as parameters and lock files name it."""
        ...

    def files(self, patterns: tuple[str, ...]) -> dict[str, Known]:
        """Return the files that match, by their path in the source's folder.

        Raises:
            FileMissingError: there is nothing at the source's path.
            ModelFileError, StorageError: the source refuses, or cannot be reached.
            TemporaryError: it cannot be reached for now.
        """
        ...

    def places(self, name: str) -> list[str]:
        """Return where a file of the folder may lie: a source is a folder, or itself the file."""
        ...

    def at_hand(self, place: str, pin: Pin) -> Path | None:
        """Return the file's path on this machine, if it is there already."""
        ...

    def read(self, place: str, start: int) -> AbstractContextManager[Reading]:
        """Open a file at byte `start`.

        Raises:
            FileMissingError: there is none.
            ModelFileError, StorageError: the source refuses.
            TemporaryError: the connection failed, now or while the chunks were read.
        """
        ...


def below(root: str, paths: dict[str, Known], patterns: tuple[str, ...], shown_as: str) -> dict[str, Known]:
    """Return those of a store's files that stand below `root`, or are `root`, and match a pattern.

    Raises:
        FileMissingError: nothing stands there.
        ModelFileError: the source names a file that could not be written, or not below its folder.
    """
    folder = f"{root}/" if root else ""
    found = {path.removeprefix(folder): known for path, known in paths.items() if path.startswith(folder)}
    if not found and root in paths:
        found = {root.rpartition("/")[2]: paths[root]}
    if not found:
        raise FileMissingError(f"{shown_as}: there is no such file or folder; check its path and revision")
    wanted = {name: known for name, known in sorted(found.items()) if matches(name, patterns)}
    for name in wanted:
        if not all(_PART.fullmatch(part) for part in name.split("/")):
            raise ModelFileError(
                f"{shown_as}: {name!r} cannot be a file's name here (`..`, control characters, or too long); the "
                "source is at fault"
            )
    return wanted


def possible_places(root: str, name: str) -> list[str]:
    """Return where a file may lie in a store: below `root`, or at `root` itself if that has the file's name."""
    inside = f"{root}/{name}" if root else name
    return [root, inside] if root.rpartition("/")[2] == name else [inside]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a path matches one of the shell patterns; `*` matches `/` too."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
