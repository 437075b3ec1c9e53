"""The benchmark measures what it says: gradients and scores are equal, bytes are counted, parts take turns."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar.__main__ import main
from distar.bench import iteration, report, scoring
from distar.bench.measure import Part, median_ratio, peak_bytes, seconds_of
from distar.bench.orchestration import OrchestrationFigures
from distar.bench.plain import plain_loss
from distar.bench.scoring import SUBJECTS, measure_scoring
from distar.bench.subject import Subject, make_subject
from distar.errors import BenchmarkError
from distar.rewards import image_reward
from distar.rewards.hpsv2 import HPSReward
from distar.rewards.params import HPSV2_WEIGHTS
from distar.training.step import generator_loss, generator_step
from tests.miniature import REPOSITORY

CPU = torch.device("cpu")
TWO_PICTURES = replace(SUBJECTS["tiny"], num_pictures=2, batch_size=1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.chdir(REPOSITORY)
    return make_subject("tiny", CPU)


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("way", ["objective", "lean_objective"])
def test_plain_way_has_the_same_gradient(way: str, tiny: Subject) -> None:
    for module in (tiny.family, tiny.generator.module, tiny.assistant.module, tiny.reward):
        module.double()
    drawn = tiny.batch(2)
    batch = replace(
        drawn, embedding=drawn.embedding.to(dtype=torch.float64), noise=drawn.noise.double(), eps=drawn.eps.double()
    )
    generator, assistant, reference = tiny.generator.module, tiny.assistant.module, tiny.family.reference()
    reference.null_prompt = reference.null_prompt.to(dtype=torch.float64)

    x0 = generator(batch.noise, batch.embedding)
    assistant.requires_grad_(False)
    by_x0, _ = generator_loss(x0, assistant, reference, batch, getattr(tiny, way), 2, 1)
    x0.backward(by_x0)
    ours = gradients(generator)
    tiny.generator.optimizer.zero_grad(set_to_none=True)
    plain_loss(generator(batch.noise, batch.embedding), assistant, reference, batch, tiny.objective).sum().backward()
    plain = gradients(generator)
    assert ours.norm() > 1e-3
    assert (ours - plain).norm() <= 1e-8 * plain.norm()


def test_peak_is_what_is_held_at_once() -> None:
    layer = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def run() -> None:
        first = torch.zeros(1000, 1000)
        del first
        held = [torch.zeros(1000, 1000) for _ in range(2)]
        del held

    assert peak_bytes(run, [layer], [optimizer]) == pytest.approx(4 * (2 * 1000 * 1000 + 110), abs=4096)


def test_parts_take_turns_and_the_first_round_does_not_count() -> None:
    seen: list[str] = []
    parts = [Part("a", lambda: seen.append("a"), lambda: seen.append("before a")), Part("b", lambda: seen.append("b"))]
    rounds = seconds_of("measure", parts, 2, CPU)
    assert seen == ["before a", "a", "b"] * 3
    assert [[*one] for one in rounds] == [["a", "b"]] * 2


def test_ratio_is_taken_in_each_round() -> None:
    rounds: Sequence[dict[str, float]] = [
        {"a": 1.0, "b": 1.0, "c": 1.0},
        {"a": 9.0, "b": 2.0, "c": 1.0},
        {"a": 4.0, "b": 1.0, "c": 1.0},
    ]
    assert median_ratio(rounds, ["a"], ["b", "c"]) == 2.0


def test_ports_score_as_the_official_loops_do() -> None:
    filters = list(warnings.filters)
    figures = measure_scoring(TWO_PICTURES, 1, CPU)
    assert list(warnings.filters) == filters
    seconds = figures.scoring_seconds
    for way, speedup, speedups in (
        ("in batches", figures.official_scoring_speedup, figures.official_scoring_speedups),
        ("in batches and bf16", figures.bf16_scoring_speedup, figures.bf16_scoring_speedups),
    ):
        loop, ours = ({name: seconds[f"{name}, {one}"] for name in speedups} for one in ("official loop", way))
        assert speedups == {name: loop[name] / ours[name] for name in speedups}
        assert speedup == pytest.approx(sum(loop.values()) / sum(ours.values()))
    assert figures.largest_score_difference["hpsv2"] < 1e-5
    assert 0 < figures.largest_score_difference["image_reward"] < 5e-3  # two ways to resize never agree on all
    assert 1e-5 < figures.largest_bf16_difference["hpsv2"] < 2e-2


def test_scoring_pays_what_its_users_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package reads its checkpoint for every picture; the port encodes every prompt, and none twice."""
    read: list[str] = []
    encoded: list[str] = []
    load, embed_prompt = torch.load, HPSReward.embed_prompt

    def recording_load(path: Any, *arguments: Any, **options: Any) -> Any:
        read.append(Path(path).name)
        return load(path, *arguments, **options)

    def recording_embed(reward: HPSReward, prompt: str) -> Tensor:
        encoded.append(prompt)
        return embed_prompt(reward, prompt)

    monkeypatch.setattr(torch, "load", recording_load)
    monkeypatch.setattr(HPSReward, "embed_prompt", recording_embed)
    measure_scoring(TWO_PICTURES, 1, CPU)
    turns = 2  # of which one counts
    assert read.count(HPSV2_WEIGHTS["2.1"]) == 3 + turns * 2  # to build ports and package, and for each picture
    assert {encoded.count(prompt) for prompt in encoded} == {2}  # by either port
    assert len(set(encoded)) == turns * 2


def test_other_scores_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reward, "RAW_MEAN", 0.2)
    with pytest.raises(BenchmarkError, match=r"image_reward: .* differs .* by 3\..e-02, expected at most 5e-03"):
        measure_scoring(TWO_PICTURES, 1, CPU)


def test_command_prints_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(report, "_BATCH_SIZES", {"tiny": 2})
    monkeypatch.setattr(report, "_ROUNDS", {"tiny": 1})
    monkeypatch.setattr(report, "_SCALING", {"tiny": (2, 1)})
    monkeypatch.setitem(scoring.SUBJECTS, "tiny", TWO_PICTURES)
    runs = OrchestrationFigures(2.0, {"flow": 3.0}, {"stage_processes": 9.0})  # tests/flow/test_bench.py measures some
    monkeypatch.setattr(report, "measure_orchestration", lambda root, rounds: runs)
    assert main(["bench", "--network", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    figures = found["networks"]["tiny"]
    assert found["machine"]["class"]
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert figures["iteration_over_floor"] > 0
    assert (
        figures["memory_ratio_plain"] == figures["peak_bytes"]["plain iteration"] / figures["peak_bytes"]["iteration"]
    )
    peaks = figures["peak_bytes"]
    assert figures["memory_growth_8_to_64"] == peaks["batch of 64"] / peaks["batch of 8"] - 1
    assert figures["official_scoring_speedup"] > 0
    assert figures["weak_scaling_efficiency"] > 0
    assert list(figures["official_scoring_speedups"]) == list(figures["largest_score_difference"])
    timed = [*figures["seconds"].values(), *figures["scoring_seconds"].values()]
    assert all(value > 0 for value in [*timed, *peaks.values()])
    assert {name: figures[name] for name in asdict(runs)} == asdict(runs)


@pytest.fixture
def second_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What is done instead of measuring a network after the first."""
    done: list[Callable[[], None]] = []

    def measure(network: str, device: torch.device) -> report.NetworkFigures:
        if network != "tiny":
            for do in done:
                do()
        return report.NetworkFigures(
            iteration.IterationFigures(1.25, 1.0, 2.0, 0.0, {}, {}),
            scoring.ScoringFigures(6.0, {}, {}, 5.0, {}, {}, {}),
            None,
            None,
        )

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(report, "_measure", measure)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield done
    signal.signal(signal.SIGTERM, before)


BOTH_NETWORKS = ["bench", "--network", "tiny", "--network", "sd15-100m", "--json"]


def networks_in(printed: str) -> list[str]:
    return [*json.loads(printed)["networks"]]


def test_figures_are_kept_where_the_next_network_fails(
    second_network: list[Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise BenchmarkError("the scores differ")

    second_network.append(fail)
    assert main(BOTH_NETWORKS) == 1
    printed = capsys.readouterr()
    assert networks_in(printed.out) == ["tiny"]
    assert "the scores differ" in printed.err


def test_figures_are_kept_where_it_is_told_to_end(
    second_network: list[Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    second_network.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        main(BOTH_NETWORKS)
    assert networks_in(capsys.readouterr().out) == ["tiny"]


@pytest.mark.parametrize(("way", "reward_size"), [("objective", 16), ("lean_objective", 32)])
def test_generator_step_takes_no_more_than_its_largest_network(way: str, reward_size: int, tiny: Subject) -> None:
    """At its peak: the largest network's own forward and backward, beside all weights, and a tenth."""
    reference, batch = tiny.family.reference(), tiny.batch(32)
    parts = {part.name: part for part in iteration.unavoidable_parts(tiny, reference, batch)}
    iteration.run_iteration(tiny, reference, batch, 32)  # the optimizers make their states
    objective = getattr(tiny, way)
    step = iteration._peak(
        tiny,
        lambda: generator_step(tiny.generator, tiny.assistant, reference, batch, objective, 32, 32, reward_size),
    )
    alone = {}
    for name, part in parts.items():
        part.prepare()
        alone[name] = iteration._peak(tiny, part.run)
    assert step <= 1.1 * max(alone.values())
