"""Imports of much, which would take a third longer if Python looked for garbage among what they make."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import in the body what stays to the process's end: it is never looked through for garbage, nor is the rest then.

    Large libraries make hundreds of thousands of objects, and none of them is garbage. Python would look through them
    time and again as they become more, and once more before the process ends.
    """
    if not gc.isenabled():  # within another
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)
