"""Git and DVC: a worktree of its own for a run, so that the user's workspace is never touched; what they print."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distar.errors import StorageError
from distar.locking import held_if_free
from distar.paths import WORKTREE_PREFIX

# -P: in a worktree of an old revision it is still this one
DVC = (sys.executable, "-P", "-m", "distar.dvc")


def current_revision() -> str:
    """Return the workspace's last commit.

    Raises:
        StorageError: there is none.
    """
    return output_of(["git", "rev-parse", "HEAD"])


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check a revision out in a temporary folder, sharing its DVC cache; remove it at the end.

    The folder around it is locked (flock) until then: one that is not belongs to a run that was killed.

    Raises:
        StorageError: git or DVC refuses: there is no such revision, the disk is full, the clone is another user's.
    """
    cache = output_of([*DVC, "cache", "dir"])
    with tempfile.TemporaryDirectory(prefix=WORKTREE_PREFIX) as parent, held_if_free(Path(parent)):
        folder = Path(parent) / "project"
        output_of(["git", "worktree", "add", "--detach", str(folder), revision])
        try:
            output_of([*DVC, "cache", "dir", "--local", cache], folder)
            yield folder
        finally:
            output_of(["git", "worktree", "remove", "--force", str(folder)])


def output_of(command: Sequence[str], folder: Path | None = None) -> str:
    """Run git or DVC and return what it prints.

    Raises:
        StorageError: it is not installed, or refuses; the message holds its own words.
    """
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError as error:
        raise StorageError(f"{command[0]} is not installed, or {folder} is gone; `{shlex.join(command)}`") from error
    except subprocess.CalledProcessError as error:
        told = error.stderr.strip() or error.stdout.strip() or f"it ended with status {error.returncode}"
        raise StorageError(f"`{shlex.join(command)}` failed: {told}") from error
