"""The work directory of a training run: one process at a time, one set of parameters, nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import torch

from distar.errors import StorageError, WorkDirectoryError
from distar.locking import take_lock

_KEPT_CHECKPOINTS = 2


def save_checkpoint(state: dict[str, object], path: Path) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        StorageError: the disk is full or cannot be written; what stood at `path` is untouched.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"the checkpoint {path} could not be written ({error}); free space there (training: or set "
            "DISTAR_WORK_DIR to a folder on another disk) and run again: it goes on from the checkpoint before"
        ) from error


class WorkDirectory:
    """A locked folder of checkpoints that belong to one fingerprint of parameters and inputs.

    Used as a context manager.

    Raises:
        WorkDirectoryError: another process works here.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def __enter__(self) -> WorkDirectory:
        self._lock = take_lock(self.path / "lock")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def save(self, iteration: int, state: dict[str, object]) -> Path:
        """Write a checkpoint whole or not at all, and drop all but the last two.

        Raises:
            StorageError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        path = self.path / f"iteration-{iteration:08d}.pt"
        save_checkpoint({"fingerprint": self.fingerprint, "iteration": iteration, **state}, path)
        for old in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
            old.unlink()
        return path

    def load(self, device: torch.device | str) -> dict | None:
        """Read the newest checkpoint, or return None if there is none.

        Raises:
            WorkDirectoryError: it is unreadable or belongs to another run.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        path = checkpoints[-1]
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise WorkDirectoryError(
                f"the checkpoint {path} cannot be read ({error}); remove it, and training resumes from the one before"
            ) from error
        if state["fingerprint"] != self.fingerprint:
            raise WorkDirectoryError(
                f"the checkpoint {path} belongs to a run with fingerprint {state['fingerprint'][:12]}, this run's is "
                f"{self.fingerprint[:12]}: parameters or inputs differ; remove {self.path} to start afresh"
            )
        return state

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("iteration-*.pt"))
