"""`distar models`: pin, check and mirror the files of reference and reward models."""

from __future__ import annotations

import argparse

from distar.commands.output import show


def add_models(commands: argparse._SubParsersAction) -> None:
    """Add the group and its commands."""
    models = commands.add_parser(
        "models",
        help="pin, check and mirror the files of reference and reward models",
        description="The files of reference and reward models: see docs/models.md.",
    )
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    lock = actions.add_parser(
        "lock",
        help="pin the sha256 of every file that a profile needs",
        description="Write the profile's lock file; a pin that would change is refused.",
    )
    lock.add_argument("--update", action="store_true", help="let pins change")
    lock.set_defaults(run=_run_lock)
    verify = actions.add_parser(
        "verify",
        help="hash what was fetched, and compare with the pins",
        description="Hash every file under outputs/reference and outputs/rewards; fail if one is not as pinned.",
    )
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.set_defaults(run=_run_verify)
    mirror = actions.add_parser(
        "mirror",
        help="copy every pinned file to the mirror that params.yaml names",
        description="Copy every pinned file that it lacks to `models.mirror` of params.yaml.",
    )
    mirror.set_defaults(run=_run_mirror)
    for action in (lock, verify, mirror):
        action.add_argument("--profile", metavar="NAME", help="a profile other than that of params.yaml")


def _run_lock(options: argparse.Namespace) -> None:
    from distar.models import lock

    lock(options.profile, options.update)


def _run_verify(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from distar.models import table, verify

    verified = verify(options.profile)
    show(options, asdict(verified), table(verified))
    return 1 if verified.differences else 0


def _run_mirror(options: argparse.Namespace) -> None:
    from distar.models import mirror

    mirror(options.profile)
