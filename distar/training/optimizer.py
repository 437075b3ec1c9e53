"""AdamW (arXiv 1711.05101) in its three forms: PyTorch's own, its fused one, and with states of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from distar.errors import ParameterError
from distar.training.params import OptimizerParams


def build_optimizer(parameters: Iterable[nn.Parameter], params: OptimizerParams) -> torch.optim.Optimizer:
    """Make the optimizer of those parameters that are to be trained.

    The weights that it changes are fp32, whatever the precision of computing: at a learning rate of 5e-7 bf16 rounds
    every update away.

    Raises:
        ParameterError: the package that 8-bit states need is not installed.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    settings = {
        "lr": params.learning_rate,
        "betas": (params.betas[0], params.betas[1]),
        "eps": params.eps,
        "weight_decay": params.weight_decay,
    }
    match params.kind:
        case "adamw":
            return torch.optim.AdamW(trained, **settings)
        case "adamw_fused":
            return torch.optim.AdamW(trained, fused=True, **settings)
        case "adamw_8bit":
            try:
                from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise ParameterError(
                    "optimizer.kind is adamw_8bit, which needs bitsandbytes: pip install --no-deps -r "
                    f"requirements/8bit.txt, or choose adamw ({error})"
                ) from error
            return AdamW8bit(trained, **settings)
