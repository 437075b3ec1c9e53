"""Git, DVC and stages as children: they act on the folder that they are started in, whatever this process inherited."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from distar.errors import StorageError
from distar.paths import WORKTREE_PREFIX

_NOT_A_REPOSITORY = "not a git repository (or any"  # as git says it, unless a repository is there and damaged
_LFS_POINTER = re.compile(  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:(?P<sha256>[0-9a-f]{64})\nsize [0-9]+\n"
)
_NO_HOOKS = {"core.hooksPath": os.devnull, "core.fsmonitor": "false"}
_AS_COMMITTED = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.attributesFile": os.devnull,
    "core.sparseCheckout": "false",
    "submodule.recurse": "false",
}
_FILTER_OFF = {"smudge": "", "clean": "", "process": "", "required": "false"}


def environment(folder: Path | None = None) -> dict[str, str]:
    """Return the environment of a child that acts on a folder (the current one if None).

    It lacks what names a repository, an index or a project: a git hook has GIT_DIR, a stage DVC_ROOT. Git runs no
    hooks, and in a worktree of a run no filters: all of its files are there, as they were committed. Of the settings
    that came with the environment `safe.directory` stays: it says which owners are trusted, and not where to work.
    """
    dropped = {"DVC_ROOT", "GIT_LITERAL_PATHSPECS", *_local_variables()}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"))
    }
    settings = [*(("safe.directory", place) for place in _trusted_by_environment()), *_NO_HOOKS.items()]
    kept |= _as_variables(settings)
    if _is_worktree_of_a_run(folder or Path()):
        filters = _ask(["config", "--null", "--name-only", "--get-regexp", r"^filter\."], folder, kept).stdout
        names = dict.fromkeys(name.rpartition(".")[0] for name in filters.decode().split("\0") if name)
        off = [(f"{name}.{key}", value) for name in names for key, value in _FILTER_OFF.items()]
        kept |= _as_variables([*settings, *_AS_COMMITTED.items(), *off]) | {"GIT_ATTR_NOSYSTEM": "1"}
    return kept


def run_git(
    *arguments: str, folder: Path | None = None, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git, whose messages are English, and return how it ended.

    Raises:
        StorageError: it is not installed, the folder is gone, or the system does not start it.
    """
    try:
        return _ask(arguments, folder, environment(folder), stdin)
    except FileNotFoundError as error:
        raise StorageError(f"git is not installed, or {folder or Path.cwd()} is gone; install git") from error
    except OSError as error:
        raise StorageError(f"git cannot be started in {folder or Path.cwd()}: {error.strerror or error}") from error


def in_repository(folder: Path = Path()) -> bool:
    """Tell whether a folder lies in a git repository that can be read.

    Raises:
        StorageError: it lies in one that git refuses to read, such as another user's; or git is not installed.
    """
    try:
        asked = run_git("rev-parse", "--git-dir", folder=folder)
    except StorageError:
        if any((place / ".git").exists() for place in (folder.absolute(), *folder.absolute().parents)):
            raise
        return False
    message = asked.stderr.decode(errors="replace").strip()
    if asked.returncode == 0 or _NOT_A_REPOSITORY in message:
        return asked.returncode == 0
    raise StorageError(f"git refuses to read the repository of {folder.absolute()}: {message}")


def current_revision() -> str:
    """Return the workspace's last commit.

    Raises:
        StorageError: there is none, or git does not tell.
    """
    found = run_git("rev-parse", "--verify", "HEAD^{commit}")
    if found.returncode == 0:
        return found.stdout.decode().strip()
    if not in_repository():
        raise StorageError(f"{Path.cwd()} is in no git repository; run from the project's clone")
    told = found.stderr.decode(errors="replace").strip()
    raise StorageError(f"there is no commit yet ({told}); commit the project first: git add --all; git commit")


def lfs_sha256(content: bytes) -> str | None:
    """Return the sha256 of the file that git-lfs keeps if this is a pointer to it, as git has it; or else None."""
    pointer = _LFS_POINTER.fullmatch(content)
    return pointer["sha256"].decode() if pointer else None


def _ask(
    arguments: Sequence[str], folder: Path | None, variables: dict[str, str], stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    english = {**variables, "LC_ALL": "C", "LANGUAGE": ""}
    return subprocess.run(["git", *arguments], cwd=folder, env=english, input=stdin, capture_output=True, check=False)


@lru_cache
def _local_variables() -> frozenset[str]:
    """Return the variables that tell git of a repository; none if git, which alone reads them, is not installed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # some refuse even this
    try:
        return frozenset(_ask(["rev-parse", "--local-env-vars"], None, plain).stdout.decode().split())
    except FileNotFoundError:
        return frozenset()


def _trusted_by_environment() -> list[str]:
    """Return the `safe.directory` that GIT_CONFIG_COUNT or `git -c` set, as containers and build machines have it."""
    names = ("GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
    if not os.environ.keys() & {*names[:2]}:
        return []
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(names)
    }
    try:
        asked = _ask(["config", "--show-scope", "--null", "--get-all", "safe.directory"], None, variables)
    except FileNotFoundError:
        return []
    fields = asked.stdout.decode(errors="surrogateescape").split("\0")
    return [place for scope, place in zip(fields[::2], fields[1::2], strict=False) if scope == "command"]


def _as_variables(settings: list[tuple[str, str]]) -> dict[str, str]:
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def _is_worktree_of_a_run(folder: Path) -> bool:
    return any(part.startswith(WORKTREE_PREFIX) for part in folder.resolve().parts)
