"""Run a grid of variants and seeds, each in a git worktree, and tabulate what comes out.

    python -m flows.grid experiments/tiny_grid.yaml

Every run checks out the commit that was the last when the grid began: what is not committed is not seen. Runs that
DVC finds in its cache are not run again, so a grid that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from distar.commands.arguments import Parser
from distar.credentials import refuse_credentials
from distar.documents import content_of, read_yaml, validated
from distar.errors import ParameterError
from distar.evaluation.summary import read_metrics
from distar.git import current_revision
from distar.secrets import print_exception
from distar.worktree import DVC, worktree
from flows.changes import check_changes, edit, read_table
from flows.commands import stream
from flows.events import check_server
from flows.exit_status import exit_status

Row = dict[str, str | int | float]


class Plan(TypedDict):
    """A grid file: each variant is what it changes of the profile, by its path of keys."""

    profile: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]
    seeds: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


@task(task_run_name="{variant} seed {seed}", cache_policy=NO_CACHE)
def run_variant(revision: str, profile: str, variant: str, changes: dict[str, Any], seed: int) -> Row:
    """Train and evaluate one variant with one seed; return what is compared."""
    with worktree(revision) as folder:
        edit(folder / "params.yaml", {"profile": profile, "seed": seed})
        edit(folder / "profiles" / f"{profile}.yaml", changes)
        stream([*DVC, "repro", "evaluate"], get_run_logger().info, cwd=folder)
        metrics = read_metrics(folder / "metrics.json")
    generator = metrics["generator"]
    return {
        "variant": variant,
        "seed": seed,
        **{f"reward_{name}": value["mean"] for name, value in generator["rewards"].items()},
        **{name: value for name, value in generator.items() if isinstance(value, float)},
        "win_rate_vs_initial": metrics["win_rate"]["vs_initial"]["mean"],
        "win_rate_vs_reference": metrics["win_rate"]["vs_reference"]["mean"],
    }


@flow(name="distar-grid")
def grid(path: str) -> None:
    """Run every variant of a grid file with every seed, one after the other, and write a CSV beside the file.

    Raises:
        ParameterError: it is not such a file, or there is no such profile or parameter; nothing was begun.
    """
    source = Path(path)
    plan = read_plan(source)
    revision = current_revision()
    rows: list[Row] = []
    for seed in plan["seeds"]:
        for variant, changes in plan["variants"].items():
            rows.append(run_variant(revision, plan["profile"], variant, changes, seed))
            with source.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    Console().print(summary(rows))
    create_table_artifact(key="grid", table=rows, description=f"{source.name}: every variant and seed")


def read_plan(source: Path) -> Plan:
    """Read a grid file, and check that there is what its variants change: all before a run, which may take hours.

    Raises:
        ParameterError: it is not such a file, it holds credentials, or there is no such profile or parameter.
    """
    content = read_yaml(content_of(source, ParameterError, "name a grid file"), str(source), ParameterError)
    refuse_credentials(content, str(source))
    plan = validated(Plan, content, str(source), ParameterError)
    path = Path("profiles", f"{plan['profile']}.yaml")
    profile = read_table(content_of(path, ParameterError, f"{source} names it"), str(path))
    for variant, changes in plan["variants"].items():
        check_changes(changes, profile, f"{source}: {variant}")
    return plan


def summary(rows: list[Row]) -> Table:
    """Tabulate each figure's mean over the seeds, with its standard deviation below: a column for each variant."""
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    table = Table("mean ± standard deviation", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for variant in variants:
        table.add_column(variant, overflow="fold", justify="right")
    for name in list(rows[0])[2:]:
        cells = []
        for variant in variants:
            values = [float(row[name]) for row in rows if row["variant"] == variant]
            spread = f"\n± {stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.4f}{spread}")
        table.add_row(name.replace("_", " "), *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow from the command line; return the process's exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="experiments/tiny_grid.yaml", help="the grid file")
    options = parser.parse_args(arguments)

    def run() -> None:
        check_server()
        read_plan(Path(options.path))  # a wrong one is told before a run begins
        current_revision()
        grid(options.path)

    return exit_status("grid", run, "The CSV has every run that ended; run the grid again: it goes on where it stood.")


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
