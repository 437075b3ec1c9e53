"""`metrics.json`, read: the figures of each system that was evaluated; docs/metrics.md says what each is."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from distar.documents import read_json, validated
from distar.errors import ReleaseError

GENERATOR = "generator"


class _MeanForm(TypedDict):
    mean: float
    sem: NotRequired[float | None]


class _SystemForm(TypedDict):
    rewards: dict[str, _MeanForm]


def read_metrics(content: bytes, shown_as: str) -> dict[str, Any]:
    """Read a release's metrics.json.

    Args:
        content: the file.
        shown_as: its name in messages.

    Raises:
        ReleaseError: it is not JSON, or the generator or another system has no rewards with a mean each.
    """
    metrics = validated(dict[str, Any], read_json(content, shown_as, ReleaseError), shown_as, ReleaseError)
    systems = {name: figures for name, figures in metrics.items() if isinstance(figures, dict) and "rewards" in figures}
    validated(dict[str, _SystemForm], systems, shown_as, ReleaseError)
    if GENERATOR not in systems:
        raise ReleaseError(f"{shown_as} does not have the form that is expected: it has no figures of the generator")
    return metrics
