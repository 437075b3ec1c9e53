"""Carry out iterations of a published model at its full size, on a GPU, and measure their time and memory.

The weights are random, all else is the profile's: bf16 over fp32 masters, optimizers, micro-batches, the average. What
is measured is one micro-batch: an update of the assistant, then one of the generator; beside them the parts that no way
of training can do without, each alone.

    python experiments/full_size_step.py sd15
    python experiments/full_size_step.py sdxl --lora 64 --micro-batch-size 1 --optimizer adamw_8bit
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from full_size import Networks, build_networks, make_batch, make_subject, micro_batch_sizes, model_parser
from torch import nn
from torch.autograd import DeviceType

from distar.bench.iteration import unavoidable_parts
from distar.bench.measure import Part, median_ratio, peak_bytes, seconds_of
from distar.diffusion.networks import compile_blocks
from distar.diffusion.prompt import PromptEmbedding
from distar.lineage.device import describe_device
from distar.params import Profile, load_params
from distar.runtime import prepare_torch
from distar.training.ema import ExponentialMovingAverage
from distar.training.optimizer import build_optimizer
from distar.training.step import Batch, assistant_step, generator_step

GB = 1e9


def main() -> None:
    """Measure, and print JSON."""
    options = parser().parse_args()
    print(json.dumps(measure(options, load_params(profile=options.profile).profile), indent=2))


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = model_parser(__doc__)
    arguments.add_argument("--compile", action="store_true", help="compile the networks' blocks")
    arguments.add_argument(
        "--channels-last", action="store_true", help="lay pictures out so, whatever the profile says"
    )
    arguments.add_argument("--rounds", type=int, default=5, help="how often each part is timed (5)")
    return arguments


def measure(options: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    """Build the networks on the device, carry out iterations, and return seconds and gigabytes."""
    train = profile.train
    accelerator = prepare_torch(profile.runtime, "bf16")
    device, sizes = accelerator.device, micro_batch_sizes(options, train)
    networks = build_networks(options, train, str(device))
    modules = [networks.family, networks.reward, networks.generator, networks.assistant]
    for module in modules:
        module.to(device)
    for network in (*networks.denoisers, networks.family.autoencoder):
        if train.channels_last or options.channels_last:
            network.to(memory_format=torch.channels_last)
    if options.compile:
        for network in networks.denoisers:
            compile_blocks(network)
    settings = [params.optimizer for params in (train.generator, train.assistant)]
    if options.optimizer:
        settings = [one.model_copy(update={"kind": options.optimizer}) for one in settings]
    optimizers = [
        build_optimizer(module.parameters(), params)
        for module, params in zip((networks.generator, networks.assistant), settings, strict=True)
    ]
    subject, reference = make_subject(networks, optimizers, train), networks.family.reference()
    average = ExponentialMovingAverage(networks.generator, train.generator.ema_decay)
    batch = random_batch(options.profile, subject.family, sizes[0], device)
    values: dict[str, torch.Tensor] = {}

    def update_assistant() -> None:
        losses, _ = assistant_step(subject.assistant, subject.generator, batch, sizes[0])
        values["assistant_loss"] = losses.mean()

    def update_generator() -> None:
        values.update(generator_step(subject.generator, subject.assistant, reference, batch, subject.objective, *sizes))
        average.update()

    updates = [Part("assistant's update", update_assistant), Part("generator's update", update_generator)]
    with accelerator.autocast():
        parts = [*updates, *unavoidable_parts(subject, reference, batch)]
        timed = seconds_of("measure updates and their parts", parts, options.rounds, device)
        resident = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
        peaks = {}
        for part in parts:
            for one in optimizers:
                one.zero_grad(set_to_none=True)
            part.prepare()
            peaks[part.name] = peak_bytes(part.run, modules, optimizers)
        waits = host_waits(updates, device)
        busy = {part.name: busy_seconds(part) for part in parts} if device.type == "cuda" else None
    errors = rounding(networks, batch, accelerator)
    names, floor = [part.name for part in updates], [part.name for part in parts[len(updates) :]]
    seconds = {part.name: median(one[part.name] for one in timed) for part in parts}
    iteration = sum(seconds[name] for name in names)
    return {
        "machine": describe_device(device),
        "torch": torch.__version__,
        "micro_batch_sizes": sizes,
        "values": {name: value.item() for name, value in values.items()},
        "rounding": errors,
        "seconds": seconds,
        "busy_seconds": busy,
        "host_waits": waits,
        "samples_per_second": sizes[0] / iteration,
        "iteration_over_floor": median_ratio(timed, names, floor),
        "gigabytes": {
            "resident": resident and resident / GB,
            **{name: peak / GB for name, peak in peaks.items()},
            "peak": max(peaks[name] for name in names) / GB,
            "reserved": torch.cuda.max_memory_reserved(device) / GB if device.type == "cuda" else None,
        },
    }


def busy_seconds(part: Part) -> float:
    """Sum the time of all that a GPU computes in a part; what is left of the part's time it waits for the host."""
    part.prepare()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        part.run()
        torch.cuda.synchronize()
    return sum(event.device_time for event in profile.events() or () if event.device_type == DeviceType.CUDA) / 1e6


def rounding(networks: Networks, batch: Batch, accelerator: Accelerator) -> dict[str, float]:
    """Return how far the guided reference's estimate, and its gradient in x_t, are from fp32's, relative to these.

    It leaves the reference in fp32, with norms that are not those of a network that nothing has trained.
    """
    reference, two = networks.family.reference(), next(iter(batch.micro_batches(2)))
    for norm in (module for module in reference.modules() if isinstance(module, nn.GroupNorm | nn.LayerNorm)):
        for parameter in norm.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)

    def estimate() -> tuple[torch.Tensor, torch.Tensor]:
        x_t = two.noise.clone().requires_grad_()
        x0 = reference.predict_x0(x_t, two.timestep, two.embedding, guidance_scale=3.0)
        (gradient,) = torch.autograd.grad((x0 * two.eps).sum(), x_t)
        return x0.detach().float(), gradient.float()

    with accelerator.autocast():
        rounded = estimate()
    reference.float()  # the weights' own rounding stays
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    exact = estimate()
    torch.backends.cudnn.allow_tf32 = allowed
    names = ("estimate", "gradient")
    return {n: ((r - e).norm() / e.norm()).item() for n, r, e in zip(names, rounded, exact, strict=True)}


def host_waits(updates: Sequence[Part], device: torch.device) -> list[str] | None:
    """List what makes the host wait for a GPU within the updates; None where there is no GPU to wait for."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in updates:
            update.run()
    torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]


def random_batch(name: str, family: Any, size: int, device: torch.device) -> Batch:
    """Draw a batch: noises of a normal distribution, and embeddings too."""
    rng = torch.Generator().manual_seed(0)
    batch = make_batch(name, family, size)
    embedding = {
        name: torch.randn(tensor.shape, generator=rng) if tensor.is_floating_point() else tensor
        for name, tensor in batch.embedding.tensors.items()
    }
    noise, eps = (torch.randn(batch.noise.shape, generator=rng) for _ in range(2))
    return replace(batch, embedding=PromptEmbedding(embedding), noise=noise, eps=eps).to(device)


if __name__ == "__main__":
    main()
