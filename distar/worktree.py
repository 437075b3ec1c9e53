"""A git worktree of its own for a run, so that the user's workspace is never touched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DVC = (sys.executable, "-m", "dvc")
PREFIX = "distar-worktree-"


def current_revision() -> str:
    """Return the workspace's last commit."""
    return _output(["git", "rev-parse", "HEAD"])


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check a revision out in a temporary folder, sharing the workspace's DVC cache; remove it at the end."""
    cache = _output([*DVC, "cache", "dir"])
    with tempfile.TemporaryDirectory(prefix=PREFIX) as parent:
        folder = Path(parent) / "project"
        _output(["git", "worktree", "add", "--detach", str(folder), revision])
        try:
            _output([*DVC, "cache", "dir", "--local", cache], cwd=folder)
            yield folder
        finally:
            _output(["git", "worktree", "remove", "--force", str(folder)])


def _output(command: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
