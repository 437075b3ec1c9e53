"""A git worktree of its own for a run, so that the user's workspace is never touched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distar.locking import held_if_free
from distar.paths import WORKTREE_PREFIX

DVC = (sys.executable, "-m", "dvc")


def current_revision() -> str:
    """Return the workspace's last commit."""
    return _output(["git", "rev-parse", "HEAD"])


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check a revision out in a temporary folder, sharing its DVC cache; remove it at the end.

    The folder around it is locked (flock) until then: one that is not belongs to a run that was killed.
    """
    cache = _output([*DVC, "cache", "dir"])
    with tempfile.TemporaryDirectory(prefix=WORKTREE_PREFIX) as parent, held_if_free(Path(parent)):
        folder = Path(parent) / "project"
        _output(["git", "worktree", "add", "--detach", str(folder), revision])
        try:
            _output([*DVC, "cache", "dir", "--local", cache], cwd=folder)
            yield folder
        finally:
            _output(["git", "worktree", "remove", "--force", str(folder)])


def _output(command: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
