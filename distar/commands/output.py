"""What a command prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from distar.errors import StorageError


def show(options: argparse.Namespace, data: object, shown: object) -> None:
    """Print what a command found: `data` as JSON if `--json` is given, or else `shown`, for people.

    Raises:
        StorageError: there is no space for it where standard output goes.
    """
    from rich.console import Console

    with full_output_told():
        if options.json:
            Console().print_json(data=data, ensure_ascii=True)
        else:
            Console().print(shown, highlight=False, markup=False, soft_wrap=isinstance(shown, str))


@contextmanager
def full_output_told() -> Iterator[None]:
    """Turn what the system says of standard output, which the body writes, into an error.

    Raises:
        StorageError: there is no space for it where standard output goes.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise StorageError(f"standard output cannot be written: {error.strerror or error}") from error
