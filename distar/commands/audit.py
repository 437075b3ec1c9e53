"""`distar audit`: where a release comes from, whether that holds, and what else comes from there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from distar.commands.arguments import positive
from distar.commands.output import full_output_told

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from distar.audit.evidence import Evidence
    from distar.audit.page import Page

_RELEASE = "its id, at least eight digits of it, an alias, or the sha256 of one of its files"


def add_audit(commands: argparse._SubParsersAction) -> None:
    """Add the group and its commands."""
    group = commands.add_parser(
        "audit",
        help="where a release comes from, whether that holds, what else comes from there",
        description="Ask about releases: see docs/audit.md. `latest` is the release published last.",
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    show = actions.add_parser(
        "show",
        help="a release, back to commit, parameters, prompts, models, environment, hardware, metrics",
        description="Show how a release was made, from its provenance.",
    )
    show.set_defaults(run=_run_show)
    verify = actions.add_parser(
        "verify",
        help="hash it again, check signatures, commit, locks and parameters; name every gap",
        description="Verify files, signatures, provenance, commit, parameters and locks. Exit 1 if there is a gap.",
    )
    verify.set_defaults(run=_run_verify)
    for action in (show, verify):
        action.add_argument("release", metavar="RELEASE", help=_RELEASE)

    forward = actions.add_parser(
        "forward",
        help="every release and commit made from a prompt set, a reference or a reward",
        description="Find everything that was made from something, for a recall. HASH: its first eight digits suffice.",
    )
    role = forward.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("prompts", "the sha256 of a prompt set"),
        ("reference", "the sha256 of a file of a reference or an initial generator"),
        ("reward", "the sha256 of a file of a reward model"),
    ):
        role.add_argument(f"--{name}", metavar="HASH", help=f"{what}, or DVC's md5 of the stage's output")
    forward.set_defaults(run=_run_forward)

    diff = actions.add_parser(
        "diff",
        help="two releases: parameters, what they were made from, metrics, samples",
        description="Compare two releases.",
    )
    for name in ("a", "b"):
        diff.add_argument(name, metavar=name.upper(), help=_RELEASE)
    diff.set_defaults(run=_run_diff)

    for action in (show, verify, forward, diff):
        action.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page instead")

    reproduce = actions.add_parser(
        "reproduce",
        help="make a release again in a git worktree, and compare",
        description="Run every stage again at the release's commit, in a git worktree, and compare the manifest: bit "
        "by bit on the same class of device, the figures within a tolerance on another. Exit 1 if it differs.",
    )
    reproduce.add_argument("release", metavar="RELEASE", help=_RELEASE)
    reproduce.set_defaults(run=_run_reproduce)
    export = actions.add_parser(
        "export",
        help="a release's lineage for other tools",
        description="Export a release's lineage: see docs/exports.md.",
    )
    export.add_argument("release", metavar="RELEASE", help=_RELEASE)
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--openlineage", metavar="TARGET", help="a file for events, or http(s)://server")
    target.add_argument("--ro-crate", type=Path, metavar="DIR", help="a folder to make")
    target.add_argument("--mlflow", metavar="URI", help="a tracking server, or sqlite:///mlflow.db")
    export.add_argument("--experiment", default="distar", metavar="NAME", help="MLflow's experiment (distar)")
    export.set_defaults(run=_run_export)

    for action in (show, verify, forward, diff, reproduce, export):
        action.add_argument(
            "--key",
            type=Path,
            action="append",
            metavar="PUBLIC",
            help="a trusted public key, beside publish.trusted_keys: only what one of them signed counts",
        )
        action.add_argument("--store", metavar="URL", help="file://folder or s3://bucket/prefix (that of params.yaml)")

    prune = actions.add_parser(
        "prune",
        help="find what is stale, and remove it with --delete",
        description="Find experiments, checkpoints, half-written files and worktrees of runs that are no more.",
    )
    prune.add_argument("--older-than", type=positive, default=30, metavar="DAYS", help="only what is older (30)")
    prune.add_argument("--delete", action="store_true", help="remove it; without this it is only shown")
    prune.set_defaults(run=_run_prune)
    for action in (show, verify, forward, diff, reproduce, prune):
        action.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run_show(options: argparse.Namespace) -> None:
    from distar.audit.repository import Repository
    from distar.audit.show import page_of, show

    evidence = _evidence(options, options.release)
    shown = show(evidence, Repository())
    _tell(options, asdict(shown), lambda: page_of(shown, evidence))


def _run_verify(options: argparse.Namespace) -> int:
    from distar.audit.repository import Repository
    from distar.audit.verify import page_of, verify
    from distar.releasing import chosen_store

    verified = verify(chosen_store(options.store), options.release, Repository(), _trusted(options))
    _tell(options, {**asdict(verified), "gaps": [asdict(gap) for gap in verified.gaps]}, lambda: page_of(verified))
    return 0 if verified.holds else 1


def _run_forward(options: argparse.Namespace) -> None:
    from distar.audit.forward import Role, forward, page_of
    from distar.audit.repository import Repository
    from distar.releasing import chosen_store

    role = next(name for name in get_args(Role) if getattr(options, name) is not None)
    made = forward(chosen_store(options.store), role, getattr(options, role), Repository(), _trusted(options))
    _tell(options, asdict(made), lambda: page_of(made))


def _run_diff(options: argparse.Namespace) -> None:
    from distar.audit.diff import diff, page_of

    a, b = _evidence(options, options.a), _evidence(options, options.b)
    found = diff(a, b)
    _tell(options, asdict(found), lambda: page_of(found, a, b))


def _run_reproduce(options: argparse.Namespace) -> int:
    from distar.audit.repository import Repository
    from distar.audit.reproduce import page_of, reproduce

    reproduced = reproduce(_evidence(options, options.release), Repository())
    _tell(options, asdict(reproduced), lambda: page_of(reproduced))
    return 0 if reproduced.agrees else 1


def _run_export(options: argparse.Namespace) -> None:
    from distar.audit.export import export_crate, export_events, export_run

    evidence = _evidence(options, options.release)
    if options.openlineage:
        told = export_events(evidence, options.openlineage)
    elif options.ro_crate:
        told = export_crate(evidence, options.ro_crate)
    else:
        told = export_run(evidence, options.mlflow, options.experiment)
    with full_output_told():
        print(told)


def _evidence(options: argparse.Namespace, release: str) -> Evidence:
    from distar.audit.evidence import gather
    from distar.releasing import chosen_store

    return gather(chosen_store(options.store), release, _trusted(options))


def _trusted(options: argparse.Namespace) -> list[Key]:
    """Load the keys that are named, and those of params.yaml, unless there is none and a store is named instead."""
    from distar.release.keys import load_verifier
    from distar.shared_params import PARAMS_PATH, load_shared

    named: list[Path] = list(options.key or ())
    if options.store is None or PARAMS_PATH.exists():
        named += map(Path, load_shared().publish.trusted_keys)
    return [load_verifier(path) for path in named]


def _run_prune(options: argparse.Namespace) -> int:
    from distar.audit.prune import page, prune

    outcomes = prune(options.older_than, options.delete)
    _tell(options, [outcome.as_json() for outcome in outcomes], lambda: page(outcomes, options.older_than))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _tell(options: argparse.Namespace, data: object, page: Callable[[], Page]) -> None:
    """Print what was found as JSON or tables, or write it as a page."""
    from rich.console import Console

    from distar.audit.page import print_page, write_html

    html = getattr(options, "html", None)
    if html:
        write_html(page(), html)
    shown = None if options.json or html else page()
    with full_output_told():
        if options.json:
            Console().print_json(data=data, ensure_ascii=True)
        elif shown is None:
            Console().print(f"{html} is written", highlight=False)
        else:
            print_page(shown)
