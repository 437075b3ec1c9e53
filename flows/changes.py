"""Changed parameters: read from the command line, checked against what a commit has, written into its worktree."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import RootModel
from ruamel.yaml import YAML

from distar.audit.repository import Repository
from distar.credentials import refuse_credentials
from distar.documents import content_of, read_yaml, validated
from distar.errors import ParameterError
from distar.secrets import without_secrets

PARAMS = Path("params.yaml")

_PROFILE = re.compile(r"\w[\w.+-]*")


class _Table(RootModel[dict[str, Any]]):
    """A document that is a table."""


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
        ParameterError: there is no such parameter or profile at the commit, or a change holds credentials.
    """
    refuse_credentials(dict(changes), "changes")
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
    """Set parameters of a YAML file, each named by its path of keys; the rest stays as it is written.

    Raises:
        ParameterError: it is not such a file, or there is no such parameter.
    """
    read_table(content_of(path, ParameterError, "check its name"), str(path))
    yaml = YAML()
    document = yaml.load(path)
    set_parameters(document, changes)
    yaml.dump(document, path)


def set_parameters(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set parameters of a document, each named by its path of keys.

    Raises:
        ParameterError: a change before took away what another is to change.
    """
    for key, value in changes.items():
        place: Any = document
        *parents, last = key.split(".")
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ParameterError(f"{key}: there is no such parameter once the other changes are made; check them")
        place[last] = value


def read_table(content: bytes, shown_as: str) -> dict[str, Any]:
    """Read a YAML document that is a table.

    Raises:
        ParameterError: it is not.
    """
    return validated(_Table, read_yaml(content, shown_as, ParameterError), shown_as, ParameterError).root


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add `--set KEY=VALUE`, which leaves a list of pairs in `changes`."""
    parser.add_argument(
        "--set", type=_change, action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="change a parameter of params.yaml or the profile; may be repeated",
    )  # fmt: skip


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(
            f"got {without_secrets(text)[:100]!r}, expected KEY=VALUE, such as train.reward_scale=2.0"
        )
    try:
        read = read_yaml(value.encode("utf-8", "surrogateescape"), key[:100], ParameterError)
        refuse_credentials({key: read}, "it")
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error).replace("%", "%%")) from None
    return key, read


def _profile_path(shared: dict[str, Any]) -> Path:
    profile = shared.get("profile")
    if not isinstance(profile, str) or not _PROFILE.fullmatch(profile):
        raise ParameterError(f"profile: got {repr(profile)[:100]}, expected the name of a file of profiles/")
    return Path("profiles", f"{profile}.yaml")


def _committed(commit: str, path: Path) -> dict[str, Any]:
    content = Repository().read(commit, path.as_posix())
    if content is None:
        raise ParameterError(f"{path} does not exist at commit {commit[:12]}; commit it, or name what is committed")
    return read_table(content, f"{path} at commit {commit[:12]}")
