"""The command line: stages, `distar sample`, `models`, `release`, `audit`, `tiny`. Heavy imports wait until needed."""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from distar.commands.audit import add_audit
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

    _add_release(commands)
    add_audit(commands)

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


def _add_release(commands: argparse._SubParsersAction) -> None:
    release = commands.add_parser(
        "release",
        help="list, download, promote and verify releases in a store",
        description="Releases in a store: see docs/releases.md. A RELEASE is an id, eight digits of it, or an alias.",
    )
    actions = release.add_subparsers(dest="action", required=True, metavar="ACTION")
    keygen = actions.add_parser(
        "keygen",
        help="make a key that signs releases",
        description="Write a new private key to PATH and its public half to PATH.pub; nothing is overwritten.",
        epilog="With DISTAR_KEY_PASSPHRASE set, the private key is encrypted.",
    )
    keygen.add_argument("path", type=Path, metavar="PATH", help="the private key's file")
    keygen.set_defaults(run=_run_release_keygen)
    listing = actions.add_parser(
        "list",
        help="every release, and the aliases that point at it",
        description="List every release of the store, and the aliases that point at it.",
    )
    listing.set_defaults(run=_run_release_list)
    download = actions.add_parser(
        "download",
        help="a release's folder, every file checked",
        description="Download a release into a new folder, which appears whole or not at all.",
    )
    download.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    download.set_defaults(run=_run_release_download)
    promote = actions.add_parser(
        "promote",
        help="point an alias at a release",
        description="Move an alias to a release; refused if somebody else moved it meanwhile.",
    )
    verify = actions.add_parser(
        "verify",
        help="hash every file of a release where it is stored",
        description="Hash every file of a release where it is stored; fail if one is missing or not as published.",
    )
    sign = actions.add_parser(
        "sign",
        help="add a key's signatures to a published release",
        description="Sign everything that is stated about a release, and its folder. Read it first: distar audit show.",
    )
    sign.add_argument("--key", required=True, help="a private key's file, or a URI as awskms:ID: see docs/signing.md")
    sign.set_defaults(run=_run_release_sign)
    for action in (download, promote, verify, sign):
        action.add_argument("release", metavar="RELEASE", help="its id, at least eight digits of it, or an alias")
    verify.set_defaults(run=_run_release_verify)
    promote.set_defaults(run=_run_release_promote)
    promote.add_argument("--expect", metavar="ID", help="where the alias must point now; `none`: it must not exist")
    history = actions.add_parser(
        "history",
        help="who moved an alias, when, from where to where",
        description="Tell who moved an alias, when, from where to where; newest last.",
    )
    history.set_defaults(run=_run_release_history)
    for action in (promote, history):
        action.add_argument("alias", metavar="ALIAS", help="a name such as `production`")
    for action in (listing, download, promote, history, verify, sign):
        action.add_argument("--store", metavar="URL", help="file://folder or s3://bucket/prefix (that of params.yaml)")
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")


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

    from distar.models import table, verify

    verified = verify(options.profile)
    _show(options, asdict(verified), table(verified))
    return 1 if verified.differences else 0


def _run_models_mirror(options: argparse.Namespace) -> None:
    from distar.models import mirror

    mirror(options.profile)


def _run_release_list(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distar.releasing import chosen_store, list_releases, releases_table

    releases = list_releases(chosen_store(options.store))
    _show(options, [asdict(release) for release in releases], releases_table(releases))


def _run_release_download(options: argparse.Namespace) -> None:
    from distar.release.releases import download, find
    from distar.releasing import chosen_store

    store = chosen_store(options.store)
    release_id = find(store, options.release)
    download(store, release_id, options.out)
    _show(options, {"release": release_id, "folder": str(options.out)}, f"{options.out} is release {release_id}")


def _run_release_promote(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distar.releasing import chosen_store, promote, promoted_text

    promoted = promote(chosen_store(options.store), options.release, options.alias, options.expect)
    _show(options, asdict(promoted), promoted_text(promoted))


def _run_release_history(options: argparse.Namespace) -> None:
    from distar.release.releases import history
    from distar.releasing import chosen_store, history_table

    moves = history(chosen_store(options.store), options.alias)
    _show(options, [one.entry() for one in moves], history_table(moves))


def _run_release_verify(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from distar.releasing import chosen_store, verified, verified_table

    found = verified(chosen_store(options.store), options.release)
    _show(options, asdict(found), verified_table(found))
    return 1 if found.problems else 0


def _show(options: argparse.Namespace, data: object, shown: object) -> None:
    """Print what a command found, for machines or for people."""
    from rich.console import Console

    if options.json:
        Console().print_json(data=data)
    else:
        Console().print(shown, highlight=False, soft_wrap=isinstance(shown, str))


def _run_release_sign(options: argparse.Namespace) -> None:
    from distar.release.keys import load_signer
    from distar.release.releases import find, read_release
    from distar.release.signing import sign_release
    from distar.releasing import chosen_store

    store, signer = chosen_store(options.store), load_signer(options.key)
    release_id = find(store, options.release)
    names = sign_release(store, release_id, read_release(store, release_id), signer)
    signed = {"release": release_id, "key": signer.public_key.keyid, "signed": names}
    _show(options, signed, "\n".join([f"signed by {signer.public_key.keyid}:", *names]))


def _run_release_keygen(options: argparse.Namespace) -> None:
    from distar.release.keys import generate_key

    keyid = generate_key(options.path)
    print(f"{options.path}: the private key {keyid}; keep it secret")
    print(f"{options.path}.pub: its public half; publish it, and name it in publish.trusted_keys")


def _run_tiny_build(options: argparse.Namespace) -> None:
    from distar.tiny.build import build

    build(options.only)


def _run_tiny_check(options: argparse.Namespace) -> None:
    from distar.tiny.check import check, table

    results = check()
    _show(options, results, table(results))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
