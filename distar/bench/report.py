"""Run the benchmarks of chosen networks; show them on the terminal, or as JSON with what they were measured on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from distar.bench.iteration import IterationFigures, measure_iteration
from distar.bench.orchestration import OrchestrationFigures, measure_orchestration
from distar.bench.scoring import SUBJECTS, ScoringFigures, measure_scoring
from distar.bench.subject import make_subject
from distar.lineage.device import describe_device
from distar.params import load_params
from distar.runtime import prepare_torch

_BATCH_SIZES = {"tiny": 32, "sd15-100m": 8}
_ROUNDS = {"tiny": 9, "sd15-100m": 3}
_PIPELINE, _PIPELINE_ROUNDS = "tiny", 3  # the network whose profile makes a pipeline of minutes


@dataclass(frozen=True)
class Benchmarks:
    """Figures by network, and what they were measured with; the pipeline's are of `tiny`."""

    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    networks: dict[str, IterationFigures]
    scoring: dict[str, ScoringFigures]
    orchestration: OrchestrationFigures | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, all figures of a network together."""
        data = asdict(self)
        scoring, orchestration = data.pop("scoring"), data.pop("orchestration")
        networks = {name: figures | scoring[name] for name, figures in data["networks"].items()}
        if orchestration:
            networks[_PIPELINE] |= orchestration
        return data | {"networks": networks}


def run_benchmarks(networks: Sequence[str]) -> Benchmarks:
    """Measure the networks, one after the other.

    Raises:
        BenchmarkError: what is compared failed, or does not do the same.
    """
    accelerator = prepare_torch(load_params(profile="tiny").profile.runtime)
    figures = {
        name: measure_iteration(make_subject(name, accelerator.device), _BATCH_SIZES[name], _ROUNDS[name])
        for name in networks
    }
    scoring = {name: measure_scoring(SUBJECTS[name], _ROUNDS[name], accelerator.device) for name in networks}
    orchestration = measure_orchestration(Path(), _PIPELINE_ROUNDS) if _PIPELINE in networks else None
    packages = (
        "distar", "torch", "diffusers", "transformers", "accelerate", "hpsv2", "image-reward", "dvc", "prefect",
    )  # fmt: skip
    versions = {name: version(name) for name in packages}
    machine = describe_device(accelerator.device)
    return Benchmarks(" ".join(sys.argv), machine, versions, figures, scoring, orchestration)


def benchmarks_table(found: Benchmarks) -> RenderableType:
    """Show the figures, and where the time goes."""
    scoring = [*found.scoring.values()]
    ratios = Table("figure", *found.networks, title=f"Ratios, on {found.machine['class']}", title_justify="left")
    for name, form in (
        ("iteration_over_floor", ".3f"),
        ("time_ratio_plain", ".2f"),
        ("memory_ratio_plain", ".2f"),
        ("memory_growth_8_to_64", ".1%"),
    ):
        ratios.add_row(name, *(format(getattr(one, name), form) for one in found.networks.values()))
    ratios.add_row("official_scoring_speedup", *(f"{one.official_scoring_speedup:.2f}" for one in scoring))
    for reward in scoring[0].official_scoring_speedups:
        ratios.add_row(f"  of {reward}", *(f"{one.official_scoring_speedups[reward]:.2f}" for one in scoring))
    parts = Table("part", *found.networks, title="Milliseconds (median)", title_justify="left")
    for name in next(iter(found.networks.values())).seconds:
        parts.add_row(name, *(f"{1000 * one.seconds[name]:.1f}" for one in found.networks.values()))
    for name in scoring[0].scoring_seconds:
        parts.add_row(name, *(f"{1000 * one.scoring_seconds[name]:.1f}" for one in scoring))
    peaks = Table("peak of tensors", *found.networks, title="MB", title_justify="left")
    for name in next(iter(found.networks.values())).peak_bytes:
        peaks.add_row(name, *(f"{one.peak_bytes[name] / 1e6:.0f}" for one in found.networks.values()))
    shown = [ratios, parts, peaks]
    if found.orchestration:
        title = f"A run of the pipeline; overhead {found.orchestration.orchestration_overhead_s:.1f} s"
        ways = Table("way", "seconds (median)", title=title, title_justify="left")
        for name, seconds in found.orchestration.orchestration_seconds.items():
            ways.add_row(name, f"{seconds:.1f}")
        shown.append(ways)
    return Group(*shown)
