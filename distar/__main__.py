"""The command line: stages, `sample`, `score`, `models`, `release`, `audit`, `tiny`, `bench`. Heavy imports wait."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from distar.commands.arguments import Parser, positive
from distar.commands.audit import add_audit
from distar.commands.bench import add_bench
from distar.commands.models import add_models
from distar.commands.release import add_release
from distar.commands.score import add_score
from distar.commands.tiny import add_tiny
from distar.credentials import refuse_credentials
from distar.errors import DistarError, ParameterError
from distar.imports import lasting_imports
from distar.launch import ON_MANY_PROCESSES, is_launched, settle_launch
from distar.loopback import without_proxy
from distar.processes import end_process
from distar.secrets import print_exception

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


_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables by which users say how OpenMP's threads wait."""


def run() -> NoReturn:
    """Be the process: run its command and end with the status.

    Threads that wait for one another give up their cores, unless the environment says how they wait: they would spin,
    and of two trainings on the same cores each took many times as long. OpenMP reads it once, when torch is imported.
    """
    sys.excepthook = print_exception
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.update(without_proxy(os.environ))  # a hub or an S3 server may be on the loopback
    end_process(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the process's exit status."""
    options = parser().parse_args(arguments)
    try:
        refuse_credentials({name: str(value) for name, value in vars(options).items() if name != "run"}, "argument")
        settle_launch(options.command)
        return options.run(options) or 0
    except DistarError as error:
        print(f"distar {options.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    root = Parser(
        prog="distar",
        description="Diff-Instruct*: align one-step text-to-image generators with human preference.",
        epilog="The stages read params.yaml and are usually run by `dvc repro`, which knows what is out of date. With "
        "DISTAR_LAUNCH=profiles/launch/NAME.yaml, baseline, train and evaluate run on as many processes as that says.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, summary in STAGES.items():
        command = commands.add_parser(stage, help=summary, description=f"Stage {stage}: {summary}.")
        command.set_defaults(run=_run_stage)
    publish = commands.choices["publish"]
    publish.add_argument(
        "--project",
        type=Path,
        metavar="FOLDER",
        help="what paths of the store and the key are relative to (the project): for a run in a worktree",
    )
    publish.add_argument("--no-latest", action="store_false", dest="move_latest", help="leave `latest` where it points")
    publish.set_defaults(run=_run_publish)

    sample = commands.add_parser(
        "sample",
        help="draw pictures with the trained generator in one step",
        description="Draw pictures of a prompt with the trained generator, in one step each.",
        epilog='Example: distar sample "a red star on a white background" --out star.png --num-images 4 --compare',
    )
    sample.add_argument("prompt", help="what to draw")
    sample.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    sample.add_argument("--num-images", type=positive, default=1, metavar="N", help="how many, side by side (1)")
    sample.add_argument("--seed", type=int, default=0, help="the noise to draw from (0)")
    sample.add_argument(
        "--compare", action="store_true", help="below them, the same noise drawn by the reference in many steps"
    )
    sample.set_defaults(run=_run_sample)

    add_models(commands)
    add_release(commands)
    add_score(commands)
    add_audit(commands)
    add_tiny(commands)
    add_bench(commands)
    return root


def _run_stage(options: argparse.Namespace) -> None:
    _end_with_parent()
    launch = os.environ.get("DISTAR_LAUNCH")
    if launch and options.command in ON_MANY_PROCESSES and not is_launched():
        _become_launch(Path(launch), options.command)
    _import(f"distar.stages.{options.command}").run()


def _become_launch(configuration: Path, stage: str) -> None:
    """Have `accelerate launch` start a stage's processes, as the file says."""
    if not configuration.is_file():
        raise ParameterError(
            f"DISTAR_LAUNCH is {configuration}, which is no file; name a configuration of accelerate, such as "
            "profiles/launch/sdxl.yaml, or unset it for one process"
        )
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    os.execv(sys.executable, [*launcher, "-m", "distar", stage])  # noqa: S606  no shell is wanted


def _run_publish(options: argparse.Namespace) -> None:
    _end_with_parent()
    _import("distar.stages.publish").run(options.project, options.move_latest)


def _end_with_parent() -> None:
    """Ask Linux to end this process with the one that started it: a killed `dvc` must not leave a stage behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _run_sample(options: argparse.Namespace) -> None:
    drawing = _import("distar.sample")
    drawing.sample(options.prompt, options.out, options.num_images, options.seed, options.compare)


def _import(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    with lasting_imports():
        return import_module(name)


if __name__ == "__main__":
    run()
