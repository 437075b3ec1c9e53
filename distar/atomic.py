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
    with workshop_beside(target) as workshop:
        partial = workshop / target.name
        yield partial
        if target.is_dir():
            os.replace(target, workshop / _PREVIOUS)
        os.replace(partial, target)


@contextmanager
def workshop_beside(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target`, in which something of its name may be made; it is gone when the body ends.

    It is locked meanwhile, as `written_whole` tells.

    Raises:
        StorageError: there is no space left.
    """
    with full_disk_told(target, "nothing was half-written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        with held_if_free(workshop):
            try:
                yield workshop
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
    target = _target_of(folder)
    kept = {target, _PREVIOUS}
    return target is not None and all(path.name in kept or _target_of(path) == target for path in folder.iterdir())


def _target_of(workshop: Path) -> str | None:
    """Return the name of what is made in a folder of such a name."""
    name = _WORKSHOP.fullmatch(workshop.name)
    return name["target"] if name else None
