"""Count what training a published model takes in GPU memory, without a GPU and without computing.

An iteration is counted, and the probe between two. Every network has its real size, and every operation is carried
out on tensors that have shapes and no data; each is followed from its making to its end, with the precisions of
autocast on CUDA. What a GPU takes besides (CUDA's own, fragmentation, workspaces) comes on top.

    python experiments/memory_on_paper.py sdxl --lora 64 --micro-batch-size 1
    python experiments/memory_on_paper.py sd15
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from full_size import (
    VISION,
    ClipOfSize,
    Networks,
    build_networks,
    checkpointing,
    encode,
    make_batch,
    make_subject,
    micro_batch_sizes,
    model_parser,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from distar.bench.iteration import unavoidable_parts
from distar.bench.measure import Part, peak_bytes
from distar.diffusion.reference import sample_ddim
from distar.params import load_params
from distar.training.monitors import IMAGES_PER_PROBE_PROMPT, Probe, draw_probe
from distar.training.params import TrainParams
from distar.training.step import assistant_step, generator_step

GB = 1e9
STATES = {"adamw": 8, "adamw_fused": 8, "adamw_8bit": 2}
"""Bytes of an optimizer's states for each parameter."""
AT_A_STEP = {"adamw": 4, "adamw_fused": 0, "adamw_8bit": 0}
"""Bytes that an optimizer takes for each parameter while it steps: `adamw` the roots of all second moments at once."""


def main() -> None:
    """Count, and print the sum."""
    options = parser().parse_args()
    train = load_params(profile=options.profile).profile.train
    print(json.dumps(count(options, train), indent=2))


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = model_parser(__doc__)
    arguments.add_argument("--probe-at-once", action="store_true", help="the probe in one piece, to compare with")
    return arguments


def count(options: argparse.Namespace, train: TrainParams) -> dict[str, Any]:
    """Carry out an iteration and return gigabytes."""
    sizes = micro_batch_sizes(options, train)
    networks = build_networks(options, train, "meta")
    family, generator, assistant = networks.family, networks.generator, networks.assistant
    reference = family.reference()
    held_out = ClipOfSize(VISION["sdxl" if options.profile == "sdxl" else "sd15"], "meta")
    modules = [family, networks.reward, generator, assistant]
    autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    with FakeTensorMode(allow_non_fake_inputs=True), autocast, norms_in_fp32():
        give_size([*modules, held_out])
        for denoiser in (generator.denoiser, assistant, reference):
            denoiser.schedule = family.schedule.to("cpu", torch.float32)
            denoiser.null_prompt = encode(options.profile, 1)
        resident = bytes_of(*modules)
        batch = make_batch(options.profile, family, sizes[0])
        subject = make_subject(networks, [without_states(one) for one in (generator, assistant)], train)
        steps = [
            Part("assistant's update", lambda: assistant_step(subject.assistant, subject.generator, batch, sizes[0])),
            Part(
                "generator's update",
                lambda: generator_step(
                    subject.generator, subject.assistant, reference, batch, subject.objective, *sizes
                ),
            ),
            *unavoidable_parts(subject, reference, batch),
        ]
        peaks = {}
        for step in steps:
            step.prepare()
            peaks[step.name] = peak_bytes(step.run, modules, [])
        probes = probe_parts(options, networks, held_out, train)
        peaks |= {one.name: peak_bytes(one.run, [*modules, held_out], []) for one in probes}
    trained = [sum(p.numel() for p in player.parameters() if p.requires_grad) for player in (generator, assistant)]
    states = STATES[options.optimizer or train.generator.optimizer.kind] * sum(trained)
    average = 4 * trained[0]
    step = resident + (4 + AT_A_STEP[options.optimizer or train.generator.optimizer.kind]) * max(trained)
    return {
        "micro_batch_sizes": sizes,
        "gradient_checkpointing": checkpointing(options, train),
        "trained_parameters": dict(zip(("generator", "assistant"), trained, strict=True)),
        "gigabytes": {
            "weights": resident / GB,
            "optimizer_states": states / GB,
            "average": average / GB,
            "peak": (max(*list(peaks.values())[:2], step) + states + average) / GB,
            "peak of a probe": (max(peaks[one.name] for one in probes) + states + average) / GB,
        },
        "gigabytes_besides_weights": {
            "an optimizer's step": (step - resident) / GB,
            **{name: (peak - resident) / GB for name, peak in peaks.items()},
        },
    }


def probe_parts(
    options: argparse.Namespace, networks: Networks, held_out: ClipOfSize, train: TrainParams
) -> list[Part]:
    """Draw the probe's latents with generator and reference, and look at them with two rewards, as training does."""
    num_pictures = IMAGES_PER_PROBE_PROMPT * train.monitors.num_probe_prompts
    sizes = (num_pictures,) * 3 if options.probe_at_once else micro_batch_sizes(options, train)
    batch = make_batch(options.profile, networks.family, num_pictures)
    reference, scale = networks.family.reference(), train.guidance_scale
    probe = Probe(
        batch.prompts,
        IMAGES_PER_PROBE_PROMPT,
        sizes[2],
        networks.family.decode,
        {"trained": networks.reward, "held_out": held_out},
        networks.reward,
    )

    @torch.no_grad()
    def draw_with_generator() -> None:
        draw_probe(networks.generator, batch.noise, batch.embedding, sizes[0], torch.device("cpu"))

    def draw_with_reference() -> None:
        draw_probe(
            lambda noise, prompt: sample_ddim(reference, noise, prompt, 2, scale),
            batch.noise,
            batch.embedding,
            sizes[1],
            torch.device("cpu"),
        )

    return [
        Part("probe, drawn by the generator", draw_with_generator),
        Part("probe, drawn by the reference", draw_with_reference),
        Part("probe, decoded and scored", lambda: probe.figures(batch.noise)),
    ]


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """Compute norms within autocast in fp32, and return it, as on CUDA and not on CPUs."""
    kept = nn.functional.group_norm, nn.functional.layer_norm

    def widened(x: Tensor) -> Tensor:
        return x.float() if torch.is_autocast_enabled("cpu") else x

    nn.functional.group_norm, nn.functional.layer_norm = (
        lambda x, *rest, norm=norm: norm(widened(x), *rest) for norm in kept
    )
    try:
        yield
    finally:
        nn.functional.group_norm, nn.functional.layer_norm = kept


def without_states(module: nn.Module) -> torch.optim.Optimizer:
    """Give a network an optimizer without states: those are counted by hand."""
    return torch.optim.SGD([parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.0)


def give_size(modules: Sequence[nn.Module]) -> None:
    """Put tensors with a size, and no data, in the place of those that have neither; what is shared stays so."""
    sized: dict[int, Tensor] = {}
    for module in (part for whole in modules for part in whole.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device.type == "meta":
                    made = sized.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype))
                    if isinstance(tensor, nn.Parameter) and not isinstance(made, nn.Parameter):
                        made = sized[id(tensor)] = nn.Parameter(made, tensor.requires_grad)
                    tensors[name] = made  # type: ignore[assignment]


def bytes_of(*modules: nn.Module) -> int:
    """Sum the bytes of modules' weights, those that they share once."""
    storages = {id(t.untyped_storage()): t.untyped_storage().nbytes() for m in modules for t in m.parameters()}
    return sum(storages.values())


if __name__ == "__main__":
    main()
