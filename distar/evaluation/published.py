"""The paper's published figures, set beside ours where both measure the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from distar.documents import read_yaml, validated
from distar.errors import DistarError


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Column(_Strict):
    """One measure: a reward with these parameters, over the prompts of one label or over all."""

    title: str
    reward: dict[str, str]
    label: str | None
    digits: int


class PublishedTable(_Strict):
    """Rows of figures, one for each column; None where the paper gives none."""

    title: str
    protocol: str
    family: str
    num_prompts: int | None
    columns: list[Column]
    rows: dict[str, list[float | None]]


class Published(_Strict):
    """All tables and where they stand."""

    source: str
    tables: list[PublishedTable]


@dataclass(frozen=True)
class Ours:
    """One of our rewards: its parameters, and what its scores are multiplied with to be in the paper's units."""

    parameters: Mapping[str, object]
    factor: float


@dataclass(frozen=True)
class Row:
    """A line of the comparison."""

    title: str
    published: bool
    cells: list[str]


@dataclass(frozen=True)
class Comparison:
    """A published table with our systems below it."""

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]


def load_published() -> Published:
    """Read the published figures that come with the package.

    Raises:
        DistarError: the installed file is damaged.
    """
    place = files("distar.evaluation") / "published.yaml"
    return validated(Published, read_yaml(place.read_bytes(), str(place), DistarError), str(place), DistarError)


def compare_with_published(
    protocol: str,
    family: str,
    num_prompts: int,
    rewards: Mapping[str, Ours],
    summaries: Mapping[str, Mapping],
) -> list[Comparison]:
    """Set our systems' summaries, by title, below every published table of the same protocol, family and measure."""
    published = load_published()
    comparisons = []
    for table in published.tables:
        names = [_same_measure(column, rewards) for column in table.columns]
        if (table.protocol, table.family) != (protocol, family) or not any(names):
            continue
        shown = list(zip(table.columns, names, strict=True))
        rows = [
            Row(title, True, [_cell(value, column) for value, column in zip(values, table.columns, strict=True)])
            for title, values in table.rows.items()
        ]
        rows += [
            Row(title, False, [_cell(_figure(summary, column, name, rewards), column) for column, name in shown])
            for title, summary in summaries.items()
        ]
        comparisons.append(
            Comparison(
                f"{table.title} ({published.source})",
                [column.title for column in table.columns],
                rows,
                _notes(table, num_prompts, {name: rewards[name] for name in names if name}),
            )
        )
    return comparisons


def _same_measure(column: Column, rewards: Mapping[str, Ours]) -> str | None:
    fitting = (name for name, ours in rewards.items() if column.reward.items() <= ours.parameters.items())
    return next(fitting, None)


def _figure(summary: Mapping, column: Column, name: str | None, rewards: Mapping[str, Ours]) -> float | None:
    if name is None:
        return None
    means = summary["rewards"] if column.label is None else summary["by_label"][column.label]
    return rewards[name].factor * means[name]["mean"]


def _cell(value: float | None, column: Column) -> str:
    return "–" if value is None else f"{value:.{column.digits}f}"


def _notes(table: PublishedTable, num_prompts: int, measured: Mapping[str, Ours]) -> list[str]:
    notes = []
    if table.num_prompts not in {None, num_prompts}:
        notes.append(f"Published for {table.num_prompts} prompts; ours are means over {num_prompts} of them.")
    scaled = {name: ours.factor for name, ours in measured.items() if ours.factor != 1}
    notes += [
        f"Our {name} is multiplied by {factor:g}, to be in the published unit." for name, factor in scaled.items()
    ]
    return notes
