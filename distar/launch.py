"""Several processes of one stage: whether this process is one of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distar.errors import ParameterError

ON_MANY_PROCESSES = ("baseline", "train", "evaluate")
"""The stages that can run on several processes at once."""

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCH = "TORCHELASTIC_RUN_ID"


def is_launched() -> bool:
    """Say whether `accelerate launch` or `torchrun` started this process as one of several (or as the only one)."""
    return all(os.environ.get(name) for name in (*_PLACE, _LAUNCH))


def process_index() -> int:
    """Return this process's number among those of its launch, 0 where there is none."""
    return int(os.environ["RANK"]) if is_launched() else 0


def num_processes() -> int:
    """Return how many processes the launch has, 1 where there is none."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def settle_launch(command: str) -> None:
    """Drop from the environment what says that this process is one of several, unless its own launcher says so.

    A shell that a launcher or a batch system started hands such variables on to every command. PyTorch, accelerate and
    transformers would go by them: wait for processes that never come, or leave work to the first.

    Raises:
        ParameterError: the command can run on several processes, and the variables say that it does, but they are
            another process's, or no launcher set them, or they make no sense.
    """
    told = {name: os.environ[name] for name in (*_PLACE, _LAUNCH) if os.environ.get(name)}
    if command in ON_MANY_PROCESSES and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= told.keys():
        if reason := _why_not_launched(told):
            raise ParameterError(
                f"the environment says that this is process {told['RANK']} of {told['WORLD_SIZE']}, but {reason}; for "
                f"one process run `env {' '.join(f'-u {name}' for name in told)} COMMAND`, for several set "
                f"DISTAR_LAUNCH or start `accelerate launch … -m distar {command}`"
            )
        return
    for name in told:
        del os.environ[name]
    if told and command in ON_MANY_PROCESSES:
        print(
            f"distar {command}: {', '.join(told)} in the environment, without the rest that a launcher sets: ignored",
            file=sys.stderr,
        )


def _why_not_launched(told: dict[str, str]) -> str | None:
    lacking = [name for name in (*_PLACE, _LAUNCH) if name not in told]
    if lacking:
        return f"neither `accelerate launch` nor `torchrun` started it: {', '.join(lacking)} is not set"
    numbers = [told[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    if not all(number.isdecimal() for number in numbers) or not int(numbers[0]) < int(numbers[1]):
        return "there is no such process"
    if told.items() <= _environment_of(os.getppid()).items():
        return "these variables are those of the process that started it"
    return None


def _environment_of(process: int) -> dict[str, str]:
    """Return what a process was started with; nothing where Linux does not tell."""
    try:
        content = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return {}
    entries = (entry.partition("=") for entry in os.fsdecode(content).split("\0"))
    return {name: value for name, _, value in entries}
