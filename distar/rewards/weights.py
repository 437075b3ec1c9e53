"""Read weight files whole and strictly: a reward with a random layer would still give scores."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distar.errors import ModelFileError


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file that stands beside weights.

    Raises:
        ModelFileError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; run the stage `rewards`, which fetches it") from None
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path} is not JSON ({error}); fetch it again with the stage `rewards`") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a PyTorch checkpoint onto the CPU; nothing in it is executed.

    Raises:
        ModelFileError: it is missing, or not a checkpoint of plain tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; run the stage `rewards`, which fetches it") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelFileError(
            f"{path} is not a PyTorch checkpoint of plain tensors ({str(error).splitlines()[0]}); "
            "check the source in the profile's rewards, and fetch it again with the stage `rewards`"
        ) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        ModelFileError: it is missing or not a safetensors file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; run the stage `rewards`, which fetches it") from None
    except SafetensorError as error:
        raise ModelFileError(
            f"{path} is not a safetensors file ({error}); fetch it again with the stage `rewards`"
        ) from error


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a module, in the module's precision: every one of them, and nothing else.

    Raises:
        ModelFileError: a tensor is missing, has another shape, or has no place in the module.
    """
    places, weights = _learnt(module.state_dict()), _learnt(weights)
    _refuse(path, "lacks tensors", places.keys() - weights.keys())
    _refuse(path, "holds tensors that the model has not", weights.keys() - places.keys())
    for name, place in places.items():
        if weights[name].shape != place.shape:
            raise ModelFileError(
                f"{path}: {name} has the shape {list(weights[name].shape)}, expected {list(place.shape)}; "
                "it belongs to a model of another size: check the source in the profile's rewards"
            )
    module.load_state_dict(weights, strict=False)


def _learnt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out `position_ids`, 0 to n - 1, which some versions of transformers save and others do not."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def _refuse(path: Path, fault: str, names: Collection[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ModelFileError(
            f"{path} {fault}: {', '.join(sorted(names)[:3])}{more}; it is not the file that this reward reads: "
            "check the source in the profile's rewards, and fetch it again with the stage `rewards`"
        )
