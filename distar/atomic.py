"""Write files and folders whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distar.disk import full_disk_told
from distar.locking import held_if_free

_WORKSHOP = re.compile(r"\.(?P<target>.+)-[a-z0-9_]{8}")
_PREVIOUS = "previous"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; it takes `target`'s place if the body ends well.

    If the body fails, nothing of it remains, and what `target` held before is untouched. The path lies in
    a folder of its own beside `target`, so concurrent writers do not meet. That folder is locked (flock) until it
    is gone: one that is not belongs to a writer that was killed.

    Raises:
        StorageError: there is no space left.
    """
    with full_disk_told(target, "nothing was half-written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        partial = workshop / target.name
        with held_if_free(workshop):
            try:
                yield partial
                if target.is_dir():
                    os.replace(target, workshop / _PREVIOUS)
                os.replace(partial, target)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder so that whoever looks finds all of it or nothing; of a removal that is killed a workshop remains.

    Raises:
        OSError: it cannot be removed.
    """
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
        os.replace(folder, Path(workshop) / folder.name)


def is_workshop(folder: Path) -> bool:
    """Tell whether this module made a folder: it has such a name, and holds nothing but what is put there."""
    name = _WORKSHOP.fullmatch(folder.name)
    return name is not None and {path.name for path in folder.iterdir()} <= {name["target"], _PREVIOUS}
