"""What stages tell one another of figures and prompt sets as JSON, read with a check of its form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from distar.documents import content_of, read_json, validated
from distar.errors import DistarError, ReleaseError

_Figure = Annotated[float, Field(strict=True)]


class _Mean(TypedDict):
    mean: _Figure
    sem: NotRequired[_Figure | None]


class _System(TypedDict):
    rewards: dict[str, _Mean]
    diversity: _Figure


class _Rewarded(TypedDict):
    rewards: dict[str, _Mean]


class _WinRate(TypedDict):
    vs_initial: _Mean
    vs_reference: _Mean


class _Metrics(TypedDict):
    generator: _System
    initial: _System
    reference: _System
    win_rate: _WinRate


class _Card(TypedDict):
    sha256: str


class _Cards(TypedDict):
    train: _Card
    evaluation: _Card


def read_released_metrics(content: bytes, shown_as: str) -> dict[str, Any]:
    """Read a release's metrics.json, which another version may have written.

    Args:
        content: the file.
        shown_as: its name in messages.

    Raises:
        ReleaseError: it is not JSON, or the generator or another system has no rewards with a mean each.
    """
    metrics = validated(dict[str, Any], read_json(content, shown_as, ReleaseError), shown_as, ReleaseError)
    systems = {name: figures for name, figures in metrics.items() if isinstance(figures, dict) and "rewards" in figures}
    validated(dict[str, _Rewarded], systems, shown_as, ReleaseError)
    if "generator" not in systems:
        raise ReleaseError(f"{shown_as} has no rewards of the generator; publish the release again")
    return metrics


def read_metrics(path: Path) -> dict[str, Any]:
    """Read what the stage `evaluate` wrote.

    Raises:
        DistarError: there is no such file, or it is damaged.
    """
    remedy = "run `dvc repro evaluate`"
    content = read_json(content_of(path, DistarError, remedy), str(path), DistarError)
    metrics = validated(_Metrics, content, str(path), DistarError)
    for system in (metrics["initial"], metrics["reference"]):
        if lacking := sorted(metrics["generator"]["rewards"].keys() - system["rewards"].keys()):
            raise DistarError(f"{path} has {', '.join(lacking)[:200]} of the generator alone; {remedy}")
    return content


def read_summary(path: Path) -> dict[str, Any]:
    """Read the figures of one system of the baseline.

    Raises:
        DistarError: there is no such file, or it is damaged.
    """
    content = read_json(content_of(path, DistarError, "run `dvc repro -f baseline`"), str(path), DistarError)
    validated(_System, content, str(path), DistarError)
    return content


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of the prompt sets.

    Raises:
        DistarError: there is no such file, or it is damaged.
    """
    content = read_json(content_of(path, DistarError, "run `dvc repro -f prompts`"), str(path), DistarError)
    validated(_Cards, content, str(path), DistarError)
    return content
