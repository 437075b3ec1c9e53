"""Run the benchmarks of chosen networks; show them on the terminal, or as JSON with what they were measured on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table

from distar.bench.iteration import IterationFigures, measure_iteration
from distar.bench.orchestration import OrchestrationFigures, measure_orchestration
from distar.bench.scaling import weak_scaling_efficiency
from distar.bench.scoring import SUBJECTS, ScoringFigures, measure_scoring
from distar.bench.subject import bench_runtime, make_subject
from distar.lineage.device import describe_device
from distar.runtime import prepare_torch

_BATCH_SIZES = {"tiny": 32, "sd15-100m": 8}
_ROUNDS = {"tiny": 15, "sd15-100m": 3}
_SCALING = {"tiny": (32, 10), "sd15-100m": (2, 5)}  # one thread a process is slow: fewer samples, and rounds
_PIPELINE, _PIPELINE_ROUNDS = "tiny", 7  # the network whose profile makes a pipeline of minutes
_PACKAGES = ("distar", "torch", "diffusers", "transformers", "accelerate", "hpsv2", "image-reward", "dvc", "prefect")


@dataclass(frozen=True)
class NetworkFigures:
    """All figures of a network.

    `weak_scaling_efficiency` is None where there is room for one process alone, `orchestration` but for the network
    with a pipeline of its own.
    """

    iteration: IterationFigures
    scoring: ScoringFigures
    weak_scaling_efficiency: float | None
    orchestration: OrchestrationFigures | None

    def to_json(self) -> dict[str, Any]:
        """Return them side by side, whatever measured them."""
        groups = (self.iteration, self.scoring, *([self.orchestration] if self.orchestration else []))
        figures = {name: value for group in groups for name, value in asdict(group).items()}
        return figures | {"weak_scaling_efficiency": self.weak_scaling_efficiency}


@dataclass(frozen=True)
class Benchmarks:
    """Figures by network, and what they were measured with."""

    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    networks: dict[str, NetworkFigures]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        networks = {name: figures.to_json() for name, figures in self.networks.items()}
        return {"command": self.command, "machine": self.machine, "versions": self.versions, "networks": networks}


def run_benchmarks(networks: Sequence[str], report: Callable[[Benchmarks], None]) -> None:
    """Measure the networks, one after the other, and report the figures: of those before it, too, where one fails.

    Raises:
        BenchmarkError: what is compared does not do the same, or a process failed.
    """
    device = prepare_torch(bench_runtime()).device
    figures: dict[str, NetworkFigures] = {}
    try:
        for name in networks:
            figures[name] = _measure(name, device)
    finally:
        if figures:
            versions = {name: version(name) for name in _PACKAGES}
            report(Benchmarks(" ".join(sys.argv), describe_device(device), versions, figures))


def _measure(network: str, device: torch.device) -> NetworkFigures:
    return NetworkFigures(
        measure_iteration(make_subject(network, device), _BATCH_SIZES[network], _ROUNDS[network]),
        measure_scoring(SUBJECTS[network], _ROUNDS[network], device),
        weak_scaling_efficiency(network, *_SCALING[network]),
        measure_orchestration(Path(), _PIPELINE_ROUNDS) if network == _PIPELINE else None,
    )


def benchmarks_table(found: Benchmarks) -> RenderableType:
    """Show the figures, and where time and memory go."""
    title = f"Figures, on {found.machine['class']}"
    figures = _table("figure", title, found, _shown_figures)
    parts = _table(
        "part",
        "Milliseconds (median)",
        found,
        lambda one: {
            name: f"{1000 * s:.1f}" for name, s in (one.iteration.seconds | one.scoring.scoring_seconds).items()
        },
    )
    peaks = _table(
        "peak of tensors",
        "MB",
        found,
        lambda one: {name: f"{size / 1e6:.0f}" for name, size in one.iteration.peak_bytes.items()},
    )
    runs = _table("way", "A run of the pipeline, seconds", found, _shown_runs)
    return Group(figures, parts, peaks, *([runs] if runs.row_count else []))


def _shown_figures(one: NetworkFigures) -> dict[str, str]:
    iteration, scoring, efficiency = one.iteration, one.scoring, one.weak_scaling_efficiency
    shown = {
        "iteration_over_floor": f"{iteration.iteration_over_floor:.3f}",
        "time_ratio_plain": f"{iteration.time_ratio_plain:.2f}",
        "memory_ratio_plain": f"{iteration.memory_ratio_plain:.2f}",
        "memory_growth_8_to_64": f"{iteration.memory_growth_8_to_64:.1%}",
        "official_scoring_speedup": f"{scoring.official_scoring_speedup:.2f}",
        **{f"  of {reward}": f"{ratio:.2f}" for reward, ratio in scoring.official_scoring_speedups.items()},
        "bf16_scoring_speedup": f"{scoring.bf16_scoring_speedup:.2f}",
        **{f"  of {reward}, bf16": f"{ratio:.2f}" for reward, ratio in scoring.bf16_scoring_speedups.items()},
        "weak_scaling_efficiency": "one process" if efficiency is None else f"{efficiency:.2f}",
    }
    if one.orchestration:
        shown["orchestration_overhead_s"] = f"{one.orchestration.orchestration_overhead_s:.1f}"
    return shown


def _shown_runs(one: NetworkFigures) -> dict[str, str]:
    if one.orchestration is None:
        return {}
    in_place = {f"{way}, in place": seconds for way, seconds in one.orchestration.orchestration_seconds.items()}
    return {way: f"{seconds:.1f}" for way, seconds in (one.orchestration.pipeline_seconds | in_place).items()}


def _table(first: str, title: str, found: Benchmarks, cells: Callable[[NetworkFigures], dict[str, str]]) -> Table:
    table = Table(first, *found.networks, title=title, title_justify="left")
    columns = [cells(figures) for figures in found.networks.values()]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "") for column in columns))
    return table
