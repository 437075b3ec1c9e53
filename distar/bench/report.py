"""Run the benchmarks of chosen networks; show them on the terminal, or as JSON with what they were measured on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from distar.bench.iteration import IterationFigures, measure_iteration
from distar.bench.scaling import weak_scaling_efficiency
from distar.bench.scoring import SUBJECTS, ScoringFigures, measure_scoring
from distar.bench.subject import make_subject
from distar.lineage.device import describe_device
from distar.params import load_params
from distar.runtime import prepare_torch

_BATCH_SIZES = {"tiny": 32, "sd15-100m": 8}
_ROUNDS = {"tiny": 9, "sd15-100m": 3}
_SCALING = {"tiny": (32, 4), "sd15-100m": (2, 1)}  # one thread a process is slow: fewer samples, and rounds a launch


@dataclass(frozen=True)
class Benchmarks:
    """Figures by network, and what they were measured with."""

    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    networks: dict[str, IterationFigures]
    scoring: dict[str, ScoringFigures]
    scaling: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, all figures of a network together."""
        data = asdict(self)
        scoring, scaling = data.pop("scoring"), data.pop("scaling")
        return data | {
            "networks": {
                name: figures | scoring[name] | {"weak_scaling_efficiency": scaling[name]}
                for name, figures in data["networks"].items()
            }
        }


def run_benchmarks(networks: Sequence[str]) -> Benchmarks:
    """Measure the networks, one after the other.

    Raises:
        BenchmarkError: what is compared does not do the same.
    """
    accelerator = prepare_torch(load_params(profile="tiny").profile.runtime)
    figures = {
        name: measure_iteration(make_subject(name, accelerator.device), _BATCH_SIZES[name], _ROUNDS[name])
        for name in networks
    }
    scoring = {name: measure_scoring(SUBJECTS[name], _ROUNDS[name], accelerator.device) for name in networks}
    scaling = {name: weak_scaling_efficiency(name, *_SCALING[name]) for name in networks}
    packages = ("distar", "torch", "diffusers", "transformers", "accelerate", "hpsv2", "image-reward")
    versions = {name: version(name) for name in packages}
    return Benchmarks(" ".join(sys.argv), describe_device(accelerator.device), versions, figures, scoring, scaling)


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
    shares = [found.scaling[name] for name in found.networks]
    ratios.add_row("weak_scaling_efficiency", *("one process" if s is None else f"{s:.2f}" for s in shares))
    parts = Table("part", *found.networks, title="Milliseconds (median)", title_justify="left")
    for name in next(iter(found.networks.values())).seconds:
        parts.add_row(name, *(f"{1000 * one.seconds[name]:.1f}" for one in found.networks.values()))
    for name in scoring[0].scoring_seconds:
        parts.add_row(name, *(f"{1000 * one.scoring_seconds[name]:.1f}" for one in scoring))
    peaks = Table("peak of tensors", *found.networks, title="MB", title_justify="left")
    for name in next(iter(found.networks.values())).peak_bytes:
        peaks.add_row(name, *(f"{one.peak_bytes[name] / 1e6:.0f}" for one in found.networks.values()))
    return Group(ratios, parts, peaks)
