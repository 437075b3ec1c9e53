"""LoRA: small trainable matrices beside a network's frozen ones (arXiv 2106.09685), with peft."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distar.diffusion.params import LoraParams
from distar.errors import ParameterError


def sharing_weights(network: nn.Module) -> nn.Module:
    """Copy a network's modules, but not its weights: those are in memory once."""
    weights = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, weights)


def add_adapters(network: nn.Module, params: LoraParams, seed: int) -> None:
    """Put adapters into a network in place, and leave nothing else of it to be trained.

    They begin as zero: the network computes what it did. They are kept in fp32 whatever it is kept in.

    Raises:
        ParameterError: it has no layer of these names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=params.rank, lora_alpha=params.alpha, target_modules=params.target_modules)
    network.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network)
    except ValueError as error:
        raise ParameterError(
            f"lora.target_modules: the network has no layer whose name ends in {' or '.join(params.target_modules)}; "
            "name some of its linear or convolutional layers, such as to_q"
        ) from error


def merge_adapters(network: nn.Module, state: Mapping[str, Tensor], params: LoraParams) -> None:
    """Add adapters' product to the weights of a plain network, in place; `state` is what of an adapted one is trained.

    Raises:
        ParameterError: as `add_adapters`.
    """
    from peft.tuners.lora import LoraLayer

    add_adapters(network, params, seed=0)
    network.load_state_dict({**network.state_dict(), **state})
    for name, layer in [*network.named_modules()]:
        if isinstance(layer, LoraLayer):
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
