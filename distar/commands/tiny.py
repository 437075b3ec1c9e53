"""`distar tiny`: the embedded world's models, built afresh or checked."""

from __future__ import annotations

import argparse

from distar.commands.output import show


def add_tiny(commands: argparse._SubParsersAction) -> None:
    """Add the group and its commands."""
    tiny = commands.add_parser(
        "tiny",
        help="the embedded world: build its models afresh, or check them",
        description="The models of the tiny world, which ship with the project.",
    )
    actions = tiny.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="train them from models/tiny/recipe.yaml (hours)",
        description="Train the tiny models from models/tiny/recipe.yaml; goes on where it was stopped.",
    )
    build.add_argument("--only", metavar="STEP", help="run one step of the recipe again")
    build.set_defaults(run=_run_build)
    check = actions.add_parser(
        "check",
        help="ask judge, rewards and reference about combinations they never saw",
        description="Ask the judge about real pictures and about the reference's, and the rewards about pairs.",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(run=_run_check)


def _run_build(options: argparse.Namespace) -> None:
    from distar.tiny.build import build

    build(options.only)


def _run_check(options: argparse.Namespace) -> None:
    from distar.tiny.check import check, table

    results = check()
    show(options, results, table(results))
