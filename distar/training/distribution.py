"""One network on many processes: whole on each (DDP), or in shards (FSDP2); its state, whole, for checkpoints.

Which of the two is the launch's to say: `accelerate launch` with an `fsdp_config` in its configuration shards.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

ValueT = TypeVar("ValueT")


def is_sharded(accelerator: Accelerator) -> bool:
    """Say whether networks in training are cut among the processes."""
    return accelerator.num_processes > 1 and _asks_for_shards()


def distribute(module: nn.Module, blocks: Iterable[nn.Module], accelerator: Accelerator) -> nn.Module:
    """Return the module to call in training; its gradients are the mean of the processes'.

    Args:
        module: a network, the same on all processes. If it is sharded, it is in place.
        blocks: its parts that are gathered one by one where it is sharded.
        accelerator: knows the processes.
    """
    if not is_sharded(accelerator):
        if _asks_for_shards():  # of one process, which holds everything; accelerate would refuse
            return module
        with warnings.catch_warnings():  # accelerate knows the argument by no other name yet
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return accelerator.prepare_model(module)
    for part in (*blocks, module):
        fully_shard(part, reshard_after_forward=True)  # the whole too: between passes there are shards alone
    return module


def without_exchange(forward: nn.Module) -> AbstractContextManager[object]:
    """Let a backward pass add to the gradients of this process alone, as all but an update's last may.

    A sharded network exchanges every time: it has no room for whole gradients.
    """
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def local(tensor: Tensor) -> Tensor:
    """Return what of a tensor lies on this process: all of it, or a shard."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Any]:
    """Gather what of a module is trained, on the first process's CPU; the others get nothing."""
    return get_model_state_dict(module, options=_options())


def load_whole_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Give a module what `whole_state` gathered; the first process alone need have it."""
    set_model_state_dict(module, state, options=_options())


def whole_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gather an optimizer's state by its parameters' names, on the first process's CPU."""
    return dict(get_optimizer_state_dict(module, optimizer, options=_options()))


def load_whole_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer what `whole_optimizer_state` gathered, whatever the number of processes was."""
    set_optimizer_state_dict(module, optimizer, state, options=_options())


def from_first(value: ValueT) -> ValueT:
    """Return the first process's value on all of them; it must be picklable."""
    return broadcast_object_list([value])[0]


def _asks_for_shards() -> bool:
    # What accelerate makes of this it makes on accelerators alone; sharding works on CPUs too.
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _options() -> StateDictOptions:
    return StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=True,
        broadcast_from_rank0=torch.distributed.is_initialized(),
        strict=False,  # what is frozen is not in the state
    )
