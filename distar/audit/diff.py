"""`distar audit diff`: two releases side by side: parameters, what they were made from, metrics, samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distar import paths
from distar.audit.evidence import Evidence
from distar.audit.origin import parameter_differences
from distar.audit.page import Page, Picture, Pictures, Rows
from distar.evaluation.summary import read_released_metrics


@dataclass(frozen=True)
class Change:
    """Something that differs; None where one of the two has nothing."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Diff:
    """Two releases, and where they differ; `metrics` holds all figures that both have."""

    a: str
    b: str
    parameters: list[Change]
    materials: list[Change]
    metrics: list[Change]
    files: list[Change]


def diff(a: Evidence, b: Evidence) -> Diff:
    """Compare two releases, by what is stated of them and by what they hold.

    Raises:
        ReleaseError: nothing is stated of one of them, or its metrics are damaged.
    """
    ours, theirs = a.stated.all_parameters, b.stated.all_parameters
    metrics_a, metrics_b = (
        dict(_figures(read_released_metrics(each.read(paths.METRICS.name), f"metrics.json of {each.release}")))
        for each in (a, b)
    )
    return Diff(
        a.release,
        b.release,
        [Change(*difference) for difference in parameter_differences(ours, theirs)],
        _changes(_materials(a), _materials(b)),
        [Change(name, value, metrics_b[name]) for name, value in metrics_a.items() if name in metrics_b],
        _changes(*({name: pin["sha256"] for name, pin in each.files.items()} for each in (a, b))),
    )


def page_of(found: Diff, a: Evidence, b: Evidence) -> Page:
    """Lay two releases out side by side."""
    pictures = [
        Picture(f"{name}: {each.release[:16]}", each.read(paths.SAMPLE_GRID.name))
        for name, each in (("A", a), ("B", b))
    ]
    metrics = [
        (one.name, f"{one.a:.4f}", f"{one.b:.4f}", f"{one.b - one.a:+.4f}")
        for one in found.metrics
        if not one.name.endswith((".sem", ".low", ".high", ".std"))
    ]
    return Page(
        f"{found.a[:16]} against {found.b[:16]}",
        f"{len(found.parameters)} parameters and {len(found.materials)} materials differ, {len(found.files)} files.",
        [
            Rows(
                "Parameters that differ",
                ("parameter", "A", "B"),
                [(c.name, _text(c.a), _text(c.b)) for c in found.parameters],
            ),
            Rows(
                "Materials that differ",
                ("material", "A", "B"),
                [(c.name, c.a or "-", c.b or "-") for c in found.materials],
            ),
            Rows("Metrics", ("figure", "A", "B", "B - A"), metrics),
            Pictures("Samples", pictures),
            Rows("Files that differ", ("file", "A", "B"), [(c.name, c.a or "-", c.b or "-") for c in found.files]),
        ],
    )


def _materials(evidence: Evidence) -> dict[str, str]:
    return {entry["name"]: next(iter(entry["digest"].values())) for entry in evidence.stated.materials}


def _changes(a: dict[str, str], b: dict[str, str]) -> list[Change]:
    names = dict.fromkeys([*a, *b])
    return [Change(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _figures(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in tree.items():
        match value:
            case dict():
                yield from _figures(value, f"{prefix}{name}.")
            case bool() | str() | None | list():
                pass
            case _:
                yield f"{prefix}{name}", float(value)


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
