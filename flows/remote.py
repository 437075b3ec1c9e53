"""The workspace's DVC remote, for a worktree: its settings go from file to file, so that no command line shows them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from configobj import ConfigObj, ConfigObjError

from distar.atomic import written_whole
from distar.errors import StorageError
from distar.worktree import DVC, output_of

_CONFIG, _LOCAL = Path(".dvc/config"), Path(".dvc/config.local")
# What DVC reads as a path that is relative to its file.
_PATHS = {
    "url",
    "gdrive_user_credentials_file",
    "gdrive_service_account_json_file_path",
    "credentialpath",
    "configpath",
    "keyfile",
    "cert_path",
    "key_path",
}


def default_remote(project: Path) -> str | None:
    """Return the name of a project's default remote, if it has one.

    Raises:
        StorageError: DVC refuses, or the remote is defined nowhere.
    """
    listed = output_of([*DVC, "config", "--list"], project).splitlines()
    names = [line.partition("=")[2] for line in listed if line.startswith("core.remote=")]
    if not names:
        return None
    if not any(line.lower().startswith(f"remote.{names[-1]}.url=".lower()) for line in listed):
        raise StorageError(
            f"DVC's default remote is {names[-1]!r}, which has no URL; add it (dvc remote add {names[-1]} URL), or "
            "name another (dvc remote default NAME)"
        )
    return names[-1]


def copy_remote(name: str, project: Path, worktree: Path) -> None:
    """Make a remote the default of a worktree, as the project has it: what is not committed is not in the worktree.

    The file that holds it is its owner's alone. What stands in the user's and the system's configuration DVC reads
    there, too.

    Raises:
        StorageError: a configuration cannot be read, or there is no space left.
    """
    title, settings = f'remote "{name}"', {}
    for path in (project / _CONFIG, project / _LOCAL):
        for section, entries in _read(path).dict().items():
            if section.lower() == title and isinstance(entries, dict):
                settings |= {key.lower(): _placed(key, value, path.parent) for key, value in entries.items()}
    local = _read(worktree / _LOCAL)
    local.merge({"core": {"remote": name}, title: settings})
    with written_whole(worktree / _LOCAL) as partial:
        partial.touch(mode=0o600)
        with partial.open("wb") as file:
            try:
                local.write(file)
            except ConfigObjError:  # its words repeat the value
                raise StorageError(f"a value of {title} in {project / _LOCAL} cannot be written; quote it") from None


def _read(path: Path) -> ConfigObj:
    try:
        return ConfigObj(str(path), encoding="utf-8", interpolation=False)
    except (ConfigObjError, UnicodeDecodeError, OSError) as error:
        raise StorageError(f"{path} cannot be read ({type(error).__name__}); correct it") from None


def _placed(key: str, value: object, folder: Path) -> object:
    """Make a path absolute that is relative to the configuration's folder."""
    if key.lower() not in _PATHS or not isinstance(value, str) or re.match(r"\w+://", value):
        return value
    return os.path.abspath(folder / Path(value).expanduser())  # noqa: PTH100  links stay as they are
