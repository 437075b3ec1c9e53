"""A full disk, told as an error with a remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distar.errors import StorageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_told(target: Path, what_is_left: str) -> Iterator[None]:
    """Turn the system's "no space left" into an error that names `target` and says what is left of the work.

    Raises:
        StorageError: there was no space left.
    """
    try:
        yield
    except Exception as error:
        code = _system_error(error)
        if code not in _NO_SPACE:
            raise
        raise StorageError(
            f"no space left to write {target} ({os.strerror(code)}); free some and run again: {what_is_left}"
        ) from error


@contextmanager
def refusal_told(path: Path, remedy: str) -> Iterator[None]:
    """Turn what the system says of a file into an error with a remedy; a full disk is left to `full_disk_told`.

    Raises:
        StorageError: the system refuses; the message names the file, `path` if the system names none.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise StorageError(f"{error.filename or path}: {error.strerror or error}; {remedy}") from error


def _system_error(error: Exception) -> int | None:
    """Return the system's error number; libraries in Rust, safetensors among them, tell it in their text alone."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None
