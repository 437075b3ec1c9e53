"""What an iteration costs beside what it must cost, beside the plain way, and as the batch grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from distar.bench.measure import Part, median_ratio, peak_bytes, seconds_of
from distar.bench.plain import plain_iteration
from distar.bench.subject import Subject
from distar.diffusion.reference import Reference
from distar.training.step import Batch, assistant_step, frozen, generator_step

_FULL, _PLAIN = "iteration", "plain iteration"


@dataclass(frozen=True)
class IterationFigures:
    """The figures of a network; all ratios are of the same run.

    Attributes:
        iteration_over_floor: an iteration's time over the sum of its unavoidable parts, each timed alone.
        time_ratio_plain: the plain iteration's time over ours.
        memory_ratio_plain: the plain iteration's peak of tensors over ours.
        memory_growth_8_to_64: by how much our peak grows from a batch of 8 to one of 64, in micro-batches of 4.
        seconds: the median seconds of every part.
        peak_bytes: the peaks that the ratios are of.
    """

    iteration_over_floor: float
    time_ratio_plain: float
    memory_ratio_plain: float
    memory_growth_8_to_64: float
    seconds: dict[str, float]
    peak_bytes: dict[str, int]


def measure_iteration(subject: Subject, batch_size: int, rounds: int) -> IterationFigures:
    """Measure a DI* iteration: one assistant update and one generator update.

    Args:
        subject: the networks.
        batch_size: the samples of an update, which make one micro-batch.
        rounds: how often each part is timed.
    """
    reference, batch = subject.family.reference(), subject.batch(batch_size)
    floor = unavoidable_parts(subject, reference, batch)
    parts = [
        Part(_FULL, lambda: run_iteration(subject, reference, batch, batch_size)),
        Part(_PLAIN, lambda: plain_iteration(subject, reference, batch)),
        *floor,
    ]
    timed = seconds_of("measure an iteration and its parts", parts, rounds, subject.family.device)
    peaks = {
        _FULL: _peak(subject, lambda: run_iteration(subject, reference, batch, batch_size)),
        _PLAIN: _peak(subject, lambda: plain_iteration(subject, reference, batch), subject.text_encoder),
    }
    for size in (8, 64):
        grown = subject.batch(size)
        peaks[f"batch of {size}"] = _peak(subject, lambda grown=grown: run_iteration(subject, reference, grown, 4))
    return IterationFigures(
        iteration_over_floor=median_ratio(timed, [_FULL], [part.name for part in floor]),
        time_ratio_plain=median_ratio(timed, [_PLAIN], [_FULL]),
        memory_ratio_plain=peaks[_PLAIN] / peaks[_FULL],
        memory_growth_8_to_64=peaks["batch of 64"] / peaks["batch of 8"] - 1,
        seconds={part.name: median(one[part.name] for one in timed) for part in parts},
        peak_bytes=peaks,
    )


def run_iteration(subject: Subject, reference: Reference, batch: Batch, micro_batch_size: int) -> None:
    """Update the assistant once, and the generator once, in as little memory as costs no time.

    Frozen networks take a whole micro-batch at once. On a CPU decoder and reward take half of it. On a GPU two halves
    can take twice as long as the whole, so they take it all, and the decoder's activations are computed twice, as in
    the published models' profiles.
    """
    if subject.family.device.type == "cuda":
        objective, reward_size = subject.lean_objective, micro_batch_size
    else:
        objective, reward_size = subject.objective, math.ceil(micro_batch_size / 2)
    assistant_step(subject.assistant, subject.generator, batch, micro_batch_size)
    sizes = micro_batch_size, micro_batch_size, reward_size
    generator_step(subject.generator, subject.assistant, reference, batch, objective, *sizes)


def unavoidable_parts(subject: Subject, reference: Reference, batch: Batch) -> list[Part]:
    """List every forward and backward that the mathematics needs, each once, and both optimizers' steps."""
    generator, assistant, times = subject.generator.module, subject.assistant.module, batch.timestep
    alpha, sigma = assistant.schedule.alpha_sigma(times)
    with torch.no_grad():
        x0 = generator(batch.noise, batch.embedding)
    x_t, cotangent, scale = alpha * x0 + sigma * batch.eps, torch.ones_like(x0), subject.train.guidance_scale

    def forget() -> None:
        for trained in (subject.generator, subject.assistant):
            trained.optimizer.zero_grad(set_to_none=True)

    def draw() -> None:
        with torch.no_grad():
            generator(batch.noise, batch.embedding)

    def fit_assistant() -> None:
        assistant.denoising_loss(x0, batch.eps, times, batch.embedding).mean().backward()

    def through_assistant() -> None:
        leaf = x_t.clone().requires_grad_()
        with frozen(assistant):
            torch.autograd.grad(assistant.predict_x0(leaf, times, batch.embedding), leaf, cotangent)

    def through_reference() -> None:
        leaf = x_t.clone().requires_grad_()
        torch.autograd.grad(reference.predict_x0(leaf, times, batch.embedding, scale), leaf, cotangent)

    def through_reward() -> None:
        leaf = x0.clone().requires_grad_()
        score = subject.objective.reward
        assert score is not None  # noqa: S101  a subject has one
        torch.autograd.grad(score(leaf, batch.prompts).sum(), leaf)

    def through_generator() -> None:
        generator(batch.noise, batch.embedding).backward(cotangent)

    def give_gradients() -> None:
        for parameter in (p for p in (*generator.parameters(), *assistant.parameters()) if p.requires_grad):
            parameter.grad = torch.full_like(parameter, 1e-9)

    return [
        Part("draw samples for the assistant", draw),
        Part("assistant, forward and backward", fit_assistant, forget),
        Part("assistant's optimizer", subject.assistant.update, give_gradients),
        Part("through the assistant into x_t", through_assistant, forget),
        Part("through the guided reference into x_t", through_reference),
        Part("through decoder and reward into x0", through_reward),
        Part("generator, forward and backward", through_generator),
        Part("generator's optimizer", subject.generator.update, give_gradients),
    ]


def _peak(subject: Subject, run: Callable[[], object], *also_held: nn.Module) -> int:
    trained = (subject.generator, subject.assistant)
    for one in trained:
        one.optimizer.zero_grad(set_to_none=True)
    networks = [subject.family, subject.reward, *(one.module for one in trained), *also_held]
    return peak_bytes(run, networks, [one.optimizer for one in trained])
