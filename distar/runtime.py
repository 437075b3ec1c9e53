"""What torch is told before it computes: threads, determinism, denormals."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from transformers.utils import logging

from distar.launch import is_launched
from distar.params import RuntimeParams


def prepare_torch(params: RuntimeParams, precision: str = "no") -> Accelerator:
    """Apply the runtime parameters to this process and return the accelerator that places things."""
    logging.disable_progress_bar()  # of loading and saving weights: a stage has its own
    if params.deterministic:  # products of matrices too: to ask CUDA for one then takes two or three times as long
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # autocast's cache keeps the bf16 weights of before an update until the whole iteration ends
    autocast = AutocastKwargs(cache_enabled=False)
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    # left to itself, accelerate takes processes without GPUs for strangers to one another
    on_cpus = is_launched() and not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpus, mixed_precision=precision, kwargs_handlers=[autocast, ddp])
    # more threads than cores wait for one another: fourteen times as long, for two processes with two each on two cores
    sharing = int(os.environ["LOCAL_WORLD_SIZE"]) if on_cpus else 1
    torch.set_num_threads(max(1, params.num_threads // sharing))  # after the accelerator, which sets it too
    # as use_deterministic_algorithms, which takes most of a second to import the compiler: what compiles calls that
    torch.set_deterministic_debug_mode("error" if params.deterministic else "default")
    torch.set_flush_denormal(params.flush_denormal)
    return accelerator
