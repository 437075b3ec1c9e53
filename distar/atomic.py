"""Write files and folders whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distar.disk import full_disk_told


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; it takes `target`'s place if the body ends well.

    If the body fails, nothing of it remains, and what `target` held before is untouched. The path lies in
    a folder of its own beside `target`, so concurrent writers do not meet.

    Raises:
        StorageError: there is no space left.
    """
    with full_disk_told(target, "nothing was half-written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        partial = workshop / target.name
        try:
            yield partial
            if target.is_dir():
                os.replace(target, workshop / "previous")
            os.replace(partial, target)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
