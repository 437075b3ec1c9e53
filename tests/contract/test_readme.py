"""What the README and the documentation tell people to type exists, and CI runs the README's own test command."""

from __future__ import annotations

import re
import runpy
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from dvc.cli import parse_args
from ruamel.yaml import YAML

from distar.__main__ import parser
from tests.miniature import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS = ("make", "distar", "dvc", "python", "git")


def commands() -> list[tuple[str, list[str]]]:
    """Return every command line of the documentation's indented blocks, with the page that it stands on."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("    ") and line.split()[:1] and line.split()[0] in PROGRAMS:
                found.append((page.name, shlex.split(line, comments=True)))
    return found


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def test_readme_begins_with_the_two_commands_and_ci_runs_the_second() -> None:
    readme = [words for page, words in commands() if page == "README.md"]
    assert readme[:2] == [["make", "repro"], ["make", "test"]]
    assert (REPOSITORY / ".ci" / "run").read_text().splitlines()[-1] == "make test"


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_command_exists(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    del page
    program, *arguments = words
    match program:
        case "make":
            assert set(arguments) <= makefile_targets()
        case "distar":
            parser().parse_args(arguments)  # exits with a usage message if it does not fit
        case "python" if arguments[0] == "-m":
            assert find_spec(arguments[1])
        case "python":
            script = REPOSITORY / arguments[0]
            monkeypatch.syspath_prepend(script.parent)  # as Python does
            runpy.run_path(str(script))["parser"]().parse_args(arguments[1:])
        case "dvc":
            parse_args(arguments)  # raises if it does not fit
            changes = [argument for argument in arguments if ":" in argument and "://" not in argument]
            assert all(parameter_exists(change) for change in changes)


def parameter_exists(change: str) -> bool:
    path, _, assignment = change.partition(":")
    place = YAML(typ="safe").load(Path(REPOSITORY / path))
    for key in assignment.partition("=")[0].split("."):
        if key not in place:
            return False
        place = place[key]
    return True


def test_every_path_that_the_readme_draws_exists() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tree = next(block for block in readme.split("```")[1::2] if "dvc.yaml" in block).strip("\n")
    folder = {0: REPOSITORY}
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        assert (folder[depth] / name).exists(), line
        folder[depth + 1] = folder[depth] / name
