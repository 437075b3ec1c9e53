"""The command line: stages, `distar sample`, `models`, `audit` and `tiny`. Heavy imports wait until needed."""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from distar.errors import DistarError

STAGES = {
    "prompts": "clean the prompt sources; check that training and evaluation share none",
    "reference": "fetch the reference model and the initial one-step generator, checked by sha256",
    "rewards": "fetch the reward models (and the Fréchet distance's), checked by sha256",
    "embeddings": "encode both prompt sets once, so that no later stage holds a text encoder",
    "baseline": "measure the reference and the initial generator, to compare with",
    "train": "align the generator with Diff-Instruct*; resumes from its last checkpoint",
    "evaluate": "measure the trained generator against the baseline; write metrics and report",
    "package": "write the release folder that plain diffusers loads",
    "publish": "put the release into its store",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the process's exit status."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except DistarError as error:
        print(f"distar {options.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    root = argparse.ArgumentParser(
        prog="distar",
        description="Diff-Instruct*: align one-step text-to-image generators with human preference.",
        epilog="The stages read params.yaml and are usually run by `dvc repro`, which knows what is out of date.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, summary in STAGES.items():
        command = commands.add_parser(stage, help=summary, description=f"Stage {stage}: {summary}.")
        command.set_defaults(run=_run_stage)

    sample = commands.add_parser(
        "sample",
        help="draw pictures with the trained generator in one step",
        description="Draw pictures of a prompt with the trained generator, in one step each.",
        epilog='Example: distar sample "a red star on a white background" --out star.png --num-images 4 --compare',
    )
    sample.add_argument("prompt", help="what to draw")
    sample.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    sample.add_argument("--num-images", type=_positive, default=1, metavar="N", help="how many, side by side (1)")
    sample.add_argument("--seed", type=int, default=0, help="the noise to draw from (0)")
    sample.add_argument(
        "--compare", action="store_true", help="below them, the same noise drawn by the reference in many steps"
    )
    sample.set_defaults(run=_run_sample)

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
    lock.set_defaults(run=_run_models_lock)
    verify = actions.add_parser(
        "verify",
        help="hash what was fetched, and compare with the pins",
        description="Hash every file under outputs/reference and outputs/rewards; fail if one is not as pinned.",
    )
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.set_defaults(run=_run_models_verify)
    mirror = actions.add_parser(
        "mirror",
        help="copy every pinned file to the mirror that params.yaml names",
        description="Copy every pinned file that it lacks to `models.mirror` of params.yaml.",
    )
    mirror.set_defaults(run=_run_models_mirror)
    for action in (lock, verify, mirror):
        action.add_argument("--profile", metavar="NAME", help="a profile other than that of params.yaml")

    audit = commands.add_parser(
        "audit",
        help="what is left over of earlier runs",
        description="Look at what was made, and at what is left over.",
    )
    actions = audit.add_subparsers(dest="action", required=True, metavar="ACTION")
    prune = actions.add_parser(
        "prune",
        help="find what is stale, and remove it with --delete",
        description="Find experiments, checkpoints, half-written files and worktrees of runs that are no more.",
    )
    prune.add_argument("--older-than", type=_positive, default=30, metavar="DAYS", help="only what is older (30)")
    prune.add_argument("--delete", action="store_true", help="remove it; without this it is only shown")
    prune.add_argument("--json", action="store_true", help="print JSON instead of a table")
    prune.set_defaults(run=_run_audit_prune)

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
    build.set_defaults(run=_run_tiny_build)
    check = actions.add_parser(
        "check",
        help="ask judge, rewards and reference about combinations they never saw",
        description="Ask the judge about real pictures and about the reference's, and the rewards about pairs.",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(run=_run_tiny_check)
    return root


def _run_stage(options: argparse.Namespace) -> None:
    _end_with_parent()
    import_module(f"distar.stages.{options.command}").run()


def _end_with_parent() -> None:
    """Ask Linux to end this process with the one that started it: a killed `dvc` must not leave a stage behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _run_sample(options: argparse.Namespace) -> None:
    from distar.sample import sample

    sample(options.prompt, options.out, options.num_images, options.seed, options.compare)


def _run_models_lock(options: argparse.Namespace) -> None:
    from distar.models import lock

    lock(options.profile, options.update)


def _run_models_verify(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rich.console import Console

    from distar.models import table, verify

    verified = verify(options.profile)
    if options.json:
        Console().print_json(data=asdict(verified))
    else:
        Console().print(table(verified))
    return 1 if verified.differences else 0


def _run_models_mirror(options: argparse.Namespace) -> None:
    from distar.models import mirror

    mirror(options.profile)


def _run_audit_prune(options: argparse.Namespace) -> int:
    from rich.console import Console

    from distar.audit.page import print_page
    from distar.audit.prune import page, prune

    outcomes = prune(options.older_than, options.delete)
    if options.json:
        Console().print_json(data=[outcome.as_json() for outcome in outcomes])
    else:
        print_page(page(outcomes, options.older_than))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _run_tiny_build(options: argparse.Namespace) -> None:
    from distar.tiny.build import build

    build(options.only)


def _run_tiny_check(options: argparse.Namespace) -> None:
    from rich.console import Console

    from distar.tiny.check import check, table

    results = check()
    if options.json:
        Console().print_json(data=results)
    else:
        Console().print(table(results))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
