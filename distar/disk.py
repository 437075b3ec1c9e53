"""A full disk, told as an error with a remedy."""

from __future__ import annotations

import errno
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
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise StorageError(
            f"no space left to write {target} ({error.strerror}); free some and run again: {what_is_left}"
        ) from error
