"""Changed parameters: read from the command line, checked against what a commit has, written into its worktree."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from distar.audit.repository import Repository
from distar.errors import ParameterError

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Changed:
    """A commit's parameters after a change.

    Attributes:
        edits: what is changed, by file.
        shared: params.yaml as it then is.
        profile: the profile that it then names.
    """

    edits: dict[Path, dict[str, Any]]
    shared: dict[str, Any]
    profile: dict[str, Any]

    @property
    def profile_path(self) -> Path:
        """The profile's file."""
        return _profile_path(self.shared)

    def write(self, folder: Path) -> None:
        """Write the change into the commit's worktree."""
        for path, edits in self.edits.items():
            if edits:
                edit(folder / path, edits)


def changed_parameters(commit: str, changes: Mapping[str, Any]) -> Changed:
    """Change parameters of params.yaml or of the profile, each named by its path of keys.

    Raises:
        ParameterError: there is no such parameter or profile at the commit.
    """
    shared = _committed(commit, PARAMS)
    of_all = {key: value for key, value in changes.items() if key.partition(".")[0] in shared}
    of_profile = {key: value for key, value in changes.items() if key not in of_all}
    check_changes(of_all, shared, PARAMS.name)
    set_parameters(shared, of_all)
    path = _profile_path(shared)
    profile = _committed(commit, path)
    check_changes(of_profile, profile, str(path))
    set_parameters(profile, of_profile)
    return Changed({PARAMS: of_all, path: of_profile}, shared, profile)


def check_changes(changes: Mapping[str, Any], parameters: dict[str, Any], shown_as: str) -> None:
    """Check that only what there is will be changed.

    Raises:
        ParameterError: there is no such parameter.
    """
    for key in changes:
        place: Any = parameters
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                raise ParameterError(
                    f"{shown_as}: {key}: there is no such parameter; check its spelling"
                    + (f": where {part!r} stands it has {', '.join(place)}" if isinstance(place, dict) else "")
                )
            place = place[part]


def edit(path: Path, changes: Mapping[str, Any]) -> None:
    """Set parameters of a YAML file, each named by its path of keys; the rest stays as it is written."""
    yaml = YAML()
    document = yaml.load(path)
    set_parameters(document, changes)
    yaml.dump(document, path)


def set_parameters(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set parameters of a document, each named by its path of keys."""
    for key, value in changes.items():
        place = document
        *parents, last = key.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = value


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add `--set KEY=VALUE`, which leaves a list of pairs in `changes`."""
    parser.add_argument(
        "--set", type=_change, action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="change a parameter of params.yaml or the profile; may be repeated",
    )  # fmt: skip


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE, such as train.reward_scale=2.0")
    return key, YAML(typ="safe").load(value)


def _profile_path(shared: dict[str, Any]) -> Path:
    return Path("profiles", f"{shared['profile']}.yaml")


def _committed(commit: str, path: Path) -> dict[str, Any]:
    content = Repository().read(commit, path.as_posix())
    if content is None:
        raise ParameterError(f"{path} does not exist at commit {commit[:12]}; commit it, or name what is committed")
    return YAML(typ="safe").load(content.decode())
