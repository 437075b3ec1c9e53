"""How networks are kept in memory and run: none of this changes what they compute by more than rounding."""

from __future__ import annotations

import warnings
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_TRANSFORMER = {"BasicTransformerBlock"}
_REPEATED = _TRANSFORMER | {"ResnetBlock2D"}
_DECODING = {"ResnetBlock2D", "Upsample2D"}
_MOST_SHAPES = 256  # of blocks: of channels and pictures, with and without gradients and adapters
_CAST_BY_AUTOCAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a denoising network is made of, many times over: what is sharded as one."""
    return [module for module in network.modules() if type(module).__name__ in _REPEATED]


def compile_blocks(network: nn.Module) -> None:
    """Compile a network's transformer blocks; those alike are compiled once.

    A UNet's other blocks are of so many shapes that they take minutes to compile.

    Where nothing can be compiled (there is no C++ compiler, or the GPU is too old) it stays as it is, with a warning.
    """
    device = next(network.parameters()).device
    if reason := _why_not_compile(device):
        warnings.warn(
            f"train.compile: nothing can be compiled for {device.type} here, so nothing is: {reason}", stacklevel=2
        )
        return
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())  # tells the compiler too
    # beyond its limit the compiler leaves blocks as they are, and one UNet has more shapes than it allows
    torch._dynamo.config.recompile_limit = _MOST_SHAPES
    for block in network.modules():
        if type(block).__name__ in _TRANSFORMER:
            block.compile()


@cache
def _why_not_compile(device: torch.device) -> str | None:
    """Compile a small function forward and backward; return what went wrong, or None."""
    x = torch.ones(8, 8, device=device, requires_grad=True)
    try:
        torch.compile(lambda x: nn.functional.gelu(x).sum())(x).backward()
    except Exception as error:
        return str(error).strip().splitlines()[0]
    return None


def checkpoint_activations(network: nn.Module) -> None:
    """Let a diffusers network forget its blocks' activations, and compute them again for the backward pass."""
    cast("Any", network).enable_gradient_checkpointing()


def checkpoint_decoder(autoencoder: nn.Module) -> None:
    """Let a diffusers autoencoder's decoder forget its activations too, in smaller parts than its blocks.

    Its last block, at the full size of pictures, takes alone most of what the decoder takes.
    """
    for part in cast("Any", autoencoder).decoder.modules():
        if type(part).__name__ in _DECODING:
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def narrow_norms(network: nn.Module) -> None:
    """Let norms return what they are given, with sums in fp32: bf16 within autocast, which on CUDA widens it to fp32.

    A norm, the SiLU behind it and the convolution's input are then kept in two bytes a value and not in four: on CUDA a
    decoder's activations take two fifths less, a UNet's one fifth. On CPUs autocast leaves norms in bf16 anyway.
    """
    for module in network.modules():
        if narrow := _NARROW.get(type(module)):
            module.__class__ = narrow


class _NarrowGroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.group_norm(input, self.num_groups, *_affine(self, input.dtype), self.eps)


class _NarrowLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.layer_norm(input, self.normalized_shape, *_affine(self, input.dtype), self.eps)


_NARROW: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: _NarrowGroupNorm,
    nn.LayerNorm: _NarrowLayerNorm,
}


def _affine(norm: nn.GroupNorm | nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    weight, bias = cast("tuple[Tensor | None, Tensor | None]", (norm.weight, norm.bias))
    return (None if weight is None else weight.to(dtype)), (None if bias is None else bias.to(dtype))


def narrow_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen weights as autocast would cast them at every call; the results are the same to the last bit.

    Those are the weights of linear and convolutional layers and of attention. Norms, which autocast computes in fp32,
    stay as they are, and so do parts with a true attribute `keep_in_fp32`: they compute in it, or what is around them
    takes after them.
    """
    if getattr(module, "keep_in_fp32", False):
        return
    if isinstance(module, _CAST_BY_AUTOCAST):
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    for part in module.children():
        narrow_frozen(part, dtype)
