"""What can go wrong, as one tree; every message says what was got, what was expected, what to do.

DistarError
├── ParameterError      params.yaml or a profile is wrong
├── PromptError         a prompt source is unusable
├── ModelFileError      fetched weights are missing, truncated or not the pinned ones
├── WorkDirectoryError  a training directory is in use or belongs to other parameters
├── TrainingError       training went wrong and was stopped
├── ReleaseError        a release is incomplete or its store refuses it
├── SigningError        a key cannot be used, or a signature does not hold
├── StorageError        the disk is full, or a store cannot be reached or refuses
└── BenchmarkError      what is compared failed, or does not do the same
"""

from __future__ import annotations

from distar.printable import printable
from distar.secrets import without_secrets


class DistarError(Exception):
    """Base of all errors that a user can do something about.

    What they repeat may be a stranger's: it loses secrets, and what a terminal obeys stands as an escape.
    """

    def __init__(self, *told: object) -> None:
        clean = (without_secrets(one) for one in told)
        super().__init__(*(printable(one) if isinstance(one, str) else one for one in clean))


class ParameterError(DistarError):
    """A parameter is missing, misspelt, of the wrong type or out of range."""


class PromptError(DistarError):
    """A prompt source cannot be read or holds nothing usable."""


class ModelFileError(DistarError):
    """A model file is missing, unreadable or differs from its pinned sha256."""


class WorkDirectoryError(DistarError):
    """A training work directory is locked by another process or holds another run."""


class TrainingError(DistarError):
    """Training produced something that no further step could mend."""


class ReleaseError(DistarError):
    """A release is incomplete, or differs from what its store already holds."""


class SigningError(DistarError):
    """A key cannot be used, or a signature or what it signs is not what it should be."""


class StorageError(DistarError):
    """The disk is full, or a store cannot be reached, or refuses."""


class BenchmarkError(DistarError):
    """What a benchmark compares failed, or does not give the same results."""
