"""`distar score`: a release's pictures, scored with the project's rewards."""

from __future__ import annotations

import argparse
from pathlib import Path

from distar.commands.output import show


def add_score(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    score = commands.add_parser(
        "score",
        help="draw with a release and score what it draws",
        description="Draw one picture a prompt with the release in DIR, in one step, and score them with the rewards.",
        epilog="Needs the rewards: `dvc repro rewards prompts`. DIR may be outputs/release, or a downloaded release.",
    )
    score.add_argument("folder", type=Path, metavar="DIR", help="the release's folder")
    score.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a prompt a line (the profile's evaluation prompts)"
    )
    score.add_argument("--json", action="store_true", help="print JSON instead of a table")
    score.set_defaults(run=_run_score)


def _run_score(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distar.scoring import score, scored_table

    scored = score(options.folder, options.prompts)
    show(options, asdict(scored), scored_table(scored))
