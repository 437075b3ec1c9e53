"""`distar release`: releases in a store, listed, downloaded, promoted, verified and signed."""

from __future__ import annotations

import argparse
from pathlib import Path

from distar.commands.output import full_output_told, show


def add_release(commands: argparse._SubParsersAction) -> None:
    """Add the group and its commands."""
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
    keygen.set_defaults(run=_run_keygen)
    listing = actions.add_parser(
        "list",
        help="every release, and the aliases that point at it",
        description="List every release of the store, and the aliases that point at it.",
    )
    listing.set_defaults(run=_run_list)
    download = actions.add_parser(
        "download",
        help="a release's folder, every file checked",
        description="Download a release into a new folder, which appears whole or not at all.",
    )
    download.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    download.set_defaults(run=_run_download)
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
        description="Sign what is stated about a release, and its folder; it is shown first. Of several statements "
        "each must be named: whoever may write to the store can have attached one.",
    )
    sign.add_argument(
        "--statement",
        action="append",
        default=[],
        metavar="HASH",
        help="a statement to sign, by its hash or eight digits of it; may be repeated",
    )
    sign.add_argument("--key", required=True, help="a private key's file, or a URI as awskms:ID: see docs/signing.md")
    sign.set_defaults(run=_run_sign)
    for action in (download, promote, verify, sign):
        action.add_argument("release", metavar="RELEASE", help="its id, at least eight digits of it, or an alias")
    verify.set_defaults(run=_run_verify)
    promote.set_defaults(run=_run_promote)
    promote.add_argument("--expect", metavar="ID", help="where the alias must point now; `none`: it must not exist")
    history = actions.add_parser(
        "history",
        help="who moved an alias, when, from where to where",
        description="Tell who moved an alias, when, from where to where; newest last.",
    )
    history.set_defaults(run=_run_history)
    for action in (promote, history):
        action.add_argument("alias", metavar="ALIAS", help="a name such as `production`")
    for action in (listing, download, promote, history, verify, sign):
        action.add_argument("--store", metavar="URL", help="file://folder or s3://bucket/prefix (that of params.yaml)")
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run_list(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from distar.releasing import alias_problems, chosen_store, list_releases, releases_table

    listing = list_releases(chosen_store(options.store))
    show(options, [asdict(release) for release in listing.releases], releases_table(listing))
    if options.json:  # the JSON is a list of releases, and these are none
        for problem in alias_problems(listing.alias_problems):
            Console(stderr=True).print(problem, highlight=False, markup=False, soft_wrap=True)


def _run_download(options: argparse.Namespace) -> None:
    from distar.release.releases import download, find
    from distar.releasing import chosen_store

    store = chosen_store(options.store)
    release_id = find(store, options.release)
    download(store, release_id, options.out)
    show(options, {"release": release_id, "folder": str(options.out)}, f"{options.out} is release {release_id}")


def _run_promote(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distar.releasing import chosen_store, promote, promoted_text

    promoted = promote(chosen_store(options.store), options.release, options.alias, options.expect)
    show(options, asdict(promoted), promoted_text(promoted))


def _run_history(options: argparse.Namespace) -> None:
    from distar.release.releases import history, require_target
    from distar.releasing import chosen_store, history_table

    store = chosen_store(options.store)
    moves = history(store, options.alias)
    show(options, [one.entry() for one in moves], history_table(moves))
    require_target(store, options.alias)  # told last: the history says where to go back to


def _run_verify(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from distar.releasing import chosen_store, verified, verified_table

    found = verified(chosen_store(options.store), options.release)
    show(options, asdict(found), verified_table(found))
    return 1 if found.problems or found.alias_problems else 0


def _run_sign(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distar.release.keys import load_signer
    from distar.release.releases import find, read_release
    from distar.release.signing import choose_statements, sign_release
    from distar.releasing import chosen_store, described_statement, statements_table

    store, signer = chosen_store(options.store), load_signer(options.key)
    release_id = find(store, options.release)
    files = read_release(store, release_id)
    names = choose_statements(store, release_id, options.statement)
    described = [described_statement(store, name) for name in names]
    if not options.json:
        show(options, None, statements_table(described))
    done = sign_release(store, release_id, files, signer, names)
    signed = {"release": release_id, "key": signer.public_key.keyid, "signed": done}
    signed["statements"] = [asdict(one) for one in described]
    show(options, signed, "\n".join([f"signed by {signer.public_key.keyid}:", *done]))


def _run_keygen(options: argparse.Namespace) -> None:
    from distar.release.keys import generate_key

    keyid = generate_key(options.path)
    with full_output_told():
        print(f"{options.path}: the private key {keyid}; keep it secret")
        print(f"{options.path}.pub: its public half; publish it, and name it in publish.trusted_keys")
