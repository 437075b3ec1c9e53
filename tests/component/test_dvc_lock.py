"""How flows' DVC keeps `dvc.lock`: as DVC itself writes it, byte for byte, never half of it, of files as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from dvc.fs import LocalFileSystem
from ruamel.yaml import YAML

from distar.dvc import WAITS, _build
from distar.worktree import DVC
from tests.miniature import git_init

PLAIN_DVC = [sys.executable, "-m", "dvc"]

# What YAML writers write in ways of their own.
AWKWARD = {
    "empty": None,
    "no_list": [],
    "no_mapping": {},
    "lists": [[1, 2], [], ["three"]],
    "mappings": [{"a": 1, "b": [2]}, {}],
    "numbers": [1, 1.0, True, 1e-5, 1e20, -0.0, 10**20],
    "words": ["yes", "null", "~", "1e-3", "0o7", "2020-01-01", "", " ", "trailing "],
    "signs": ["a: b", "a #b", "- a", "'quoted'", '"quoted"', "{a}", "*a", "é😀", "\t", "\u2028"],
    "lines": ["two\nlines", "one line\n", "word " * 40, "long" * 40],
}

ONE = ["once"]
SHARED = {"shared": {"here": ONE, "there": ONE}}  # an anchor and its alias


@pytest.fixture(params=[AWKWARD, SHARED], ids=["awkward", "shared"])
def values(request: pytest.FixtureRequest) -> dict[str, object]:
    """Parameters that YAML writers write in ways of their own."""
    return request.param


@pytest.fixture
def pipeline(values: dict[str, object], tmp_path: Path) -> Path:
    """Three stages, each of which depends on the one before, and the second on every such parameter."""
    stages = {
        "first": {"cmd": "echo first > first", "params": ["number"], "outs": ["first"]},
        "second": {"cmd": "cat first > second", "params": [*values], "deps": ["first"], "outs": ["second"]},
        "third": {"cmd": "cat second > third", "params": ["number"], "deps": ["second"], "outs": ["third"]},
    }
    write(tmp_path / "dvc.yaml", {"stages": stages})
    write(tmp_path / "params.yaml", {"number": 1, **values})
    return git_init(tmp_path, [*PLAIN_DVC, "init", "--quiet"])


def write(path: Path, document: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(document, file)


def reproduced_by(dvc: Sequence[str], folder: Path) -> bytes:
    subprocess.run([*dvc, "repro", "--quiet"], cwd=folder, check=True)
    return (folder / "dvc.lock").read_bytes()


def test_lock_file_is_what_dvc_writes(pipeline: Path, values: dict[str, object]) -> None:
    new = reproduced_by(DVC, pipeline)
    (pipeline / "dvc.lock").unlink()
    assert new == reproduced_by(PLAIN_DVC, pipeline)

    write(pipeline / "params.yaml", {"number": 2, **values})
    one_stage_changed = reproduced_by(DVC, pipeline)
    assert one_stage_changed != new
    (pipeline / "dvc.lock").write_bytes(new)
    assert one_stage_changed == reproduced_by(PLAIN_DVC, pipeline)


@pytest.mark.parametrize("indent", [2, 4])
def test_lock_file_that_somebody_laid_out_is_what_dvc_makes_of_it(
    pipeline: Path, values: dict[str, object], indent: int
) -> None:
    reproduced_by(DVC, pipeline)
    lock = YAML(typ="safe").load(pipeline / "dvc.lock")
    with (pipeline / "dvc.lock").open("w", encoding="utf-8") as file:
        file.write("# merged by hand\n")
        other = YAML()
        other.indent(mapping=indent, sequence=indent + 2, offset=indent)
        other.dump(dict(reversed(lock.items())), file)
    by_hand = (pipeline / "dvc.lock").read_bytes()
    write(pipeline / "params.yaml", {"number": 2, **values})
    new = reproduced_by(DVC, pipeline)
    (pipeline / "dvc.lock").write_bytes(by_hand)
    plain = reproduced_by(PLAIN_DVC, pipeline)
    assert new == b"".join(line for line in plain.splitlines(keepends=True) if not line.startswith(b"#"))


def test_lock_file_is_replaced_and_never_cut(pipeline: Path, values: dict[str, object]) -> None:
    whole = reproduced_by(DVC, pipeline)
    with (pipeline / "dvc.lock").open("rb") as seen_before:
        write(pipeline / "params.yaml", {"number": 2, **values})
        assert reproduced_by(DVC, pipeline) != whole
        assert seen_before.read() == whole
    assert not [*pipeline.glob(".dvc.lock-*")]


def test_list_of_what_is_being_written_is_replaced_and_never_cut(tmp_path: Path) -> None:
    """A hard link keeps what the list held while the stage ran, unless the file is written in its place."""
    write(tmp_path / "dvc.yaml", {"stages": {"only": {"cmd": "ln .dvc/tmp/rwlock seen; touch made", "outs": ["made"]}}})
    reproduced_by(DVC, git_init(tmp_path, [*PLAIN_DVC, "init", "--quiet"]))
    being_written = json.loads((tmp_path / "seen").read_text()).get("write", {})
    assert [*being_written] == [str(tmp_path / "made")]
    assert "write" not in json.loads((tmp_path / ".dvc" / "tmp" / "rwlock").read_text())


CHANGES = {
    "appended": "echo more >> data/file",
    "overwritten": "printf 'One' | dd of=data/file conv=notrunc status=none",
    "replaced": "printf 'One' > new; touch -r data/file new; mv new data/file",
    "renamed": "mv data/file data/other",
    "removed": "rm data/file; touch data/other",
    "added below": "mkdir data/below; touch data/below/file",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_dependency_that_a_stage_changes_is_hashed_anew(change: str, tmp_path: Path) -> None:
    stages = {
        "first": {"cmd": "touch first", "deps": ["data"], "outs": ["first"]},
        "second": {"cmd": f"{change}; touch second", "deps": ["first"], "outs": ["second"]},
        "third": {"cmd": "touch third", "deps": ["data", "second"], "outs": ["third"]},
    }
    write(tmp_path / "dvc.yaml", {"stages": stages})
    git_init(tmp_path, [*PLAIN_DVC, "init", "--quiet"])

    def hashes_by(dvc: Sequence[str]) -> list[str]:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "file").write_text("one", encoding="utf-8")
        subprocess.run([*dvc, "repro", "--quiet", "--force", "--no-run-cache"], cwd=tmp_path, check=True)
        done = YAML(typ="safe").load(tmp_path / "dvc.lock")["stages"]
        return [done[stage]["deps"][0]["md5"] for stage in ("first", "third")]

    before, after = hashes_by(DVC)
    assert before != after
    assert [before, after] == hashes_by(PLAIN_DVC)


def test_dependency_is_hashed_once(tmp_path: Path) -> None:
    """What is asked for twice holds what was found first, as long as the folder's files stay as they are."""
    asked: list[str] = []

    def found(_dependency: object, _odb: object, path: str, *_others: object) -> int:
        asked.append(path)
        return len(asked)

    def build(path: Path) -> int:
        return _build(None, None, str(path), LocalFileSystem(), "md5", plain=found, known=known)

    known: dict[tuple[str, str], tuple[dict[str, object], object]] = {}
    data, empty = tmp_path / "data", tmp_path / "empty"
    data.write_text("one", encoding="utf-8")
    empty.mkdir()
    assert [build(data), build(empty), build(data), build(empty)] == [1, 2, 1, 2]
    data.unlink()
    assert build(data) == 3
    assert asked == [str(data), str(empty), str(data)]


COUNTING = """
import sys
from dvc.dependency.base import Dependency
from distar.dvc import run

plain = Dependency._build

def counted(dependency, *args, **kwargs):
    with open("hashed", "a") as file:
        print(dependency.def_path, file=file)
    return plain(dependency, *args, **kwargs)

Dependency._build = counted
sys.argv = ["dvc", "repro", "--quiet"]
run()
"""


def test_repro_hashes_each_dependency_once(pipeline: Path) -> None:
    subprocess.run([sys.executable, "-c", COUNTING], cwd=pipeline, check=True)
    assert sorted((pipeline / "hashed").read_text().split()) == ["first", "second"]


def test_dvc_that_waits_tells_of_a_full_disk_as_dvc_does(pipeline: Path) -> None:
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *DVC, "repro"]
    for waits in ({}, {WAITS: "yes"}):
        result = subprocess.run(
            command,
            cwd=pipeline,
            env={**os.environ, "DVC_SITE_CACHE_DIR": str(pipeline / "site"), **waits},
            input="{}\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 255
        assert result.stderr.startswith("ERROR: unexpected error")


def test_dvc_yaml_keeps_its_comments(pipeline: Path) -> None:
    path = pipeline / "dvc.yaml"
    path.write_text("# why it is so\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    command = ["stage", "add", "--quiet", "--name", "fourth", "--deps", "third", "cat third"]
    subprocess.run([*DVC, *command], cwd=pipeline, check=True)
    text = path.read_text(encoding="utf-8")
    assert "# why it is so" in text
    assert "fourth" in text
