"""The work directory of a training run: one process at a time, one set of parameters, nothing half-written."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

import torch

from distar.errors import StorageError, WorkDirectoryError

_KEPT_CHECKPOINTS = 2


class WorkDirectory:
    """A locked folder of checkpoints that belong to one fingerprint of parameters and inputs.

    Used as a context manager; the lock is the operating system's (flock), so it ends with the process
    however that ends.

    Raises:
        WorkDirectoryError: another process works here.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def __enter__(self) -> WorkDirectory:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise WorkDirectoryError(
                f"{self.path} is in use by the training process {owner}; wait for it to end, or stop it "
                f"(kill {owner}) and run again: training resumes from its last checkpoint"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
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
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save({"fingerprint": self.fingerprint, "iteration": iteration, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise StorageError(
                f"the checkpoint {path} could not be written ({error}); free space there, or set DISTAR_WORK_DIR "
                "to a folder on another disk, and run again: training resumes from the checkpoint before it"
            ) from error
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
