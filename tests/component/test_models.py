"""`distar models`: lock, verify, mirror on a miniature project."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from distar import paths
from distar.__main__ import main
from distar.fetching import read_pins
from distar.hashing import pin_folder
from distar.params import load_params, lock_path, profile_files
from tests.miniature import edit, state_licences

LOCK = lock_path("mini")
PROFILE = Path("profiles/mini.yaml")
CONFIG = Path("models/judge/config.json")


def test_profile_files_are_those_of_every_component(project: Path) -> None:
    files = profile_files(load_params().profile)
    assert {folder: needed.source for folder, needed in files.items()} == {
        paths.REFERENCE: "file://models/reference",
        paths.INITIAL_GENERATOR: "file://models/initial_generator",
        paths.REWARDS / "preference": "file://models/preference",
        paths.REWARDS / "matching": "file://models/matching",
        paths.REWARDS / "judge": "file://models/judge",
    }
    edit(PROFILE, "initial_generator", "source", value="reference")
    state_licences(project)
    assert paths.INITIAL_GENERATOR not in profile_files(load_params().profile)


def test_lock_pins_what_the_profile_needs_and_drops_the_rest(project: Path) -> None:
    edit(PROFILE, "initial_generator", "source", value="reference")
    state_licences(project)
    LOCK.unlink()
    assert main(["models", "lock"]) == 0
    folders = ("reference", "preference", "matching", "judge")
    assert read_pins(LOCK) == {f"file://models/{name}": pin_folder(Path("models", name)) for name in folders}
    text = LOCK.read_text()
    assert main(["models", "lock"]) == 0
    assert LOCK.read_text() == text


def test_lock_refuses_a_change_unless_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, old = LOCK.read_text(), hashlib.sha256(CONFIG.read_bytes()).hexdigest()
    CONFIG.write_text("{}")
    assert main(["models", "lock"]) == 1
    message, new = capsys.readouterr().err, hashlib.sha256(b"{}").hexdigest()
    for text in ("file://models/judge/config.json", old, new, "--update"):
        assert text in message
    assert LOCK.read_text() == before
    assert main(["models", "lock", "--update"]) == 0
    assert read_pins(LOCK)["file://models/judge"]["config.json"] == {"sha256": new, "bytes": 2}


def test_lock_of_another_profile(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PROFILE, "profiles/other.yaml")
    assert main(["models", "lock", "--profile", "other"]) == 0
    assert read_pins(lock_path("other")) == read_pins(LOCK)
    assert main(["models", "lock", "--profile", "third"]) == 1
    assert "--profile: profile: there is no profile 'third'" in capsys.readouterr().err


def test_a_source_without_the_files_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "reference", "source", value="file://models/none")
    state_licences(project)
    assert main(["models", "lock"]) == 1
    assert "file://models/none: there is no such file or folder" in capsys.readouterr().err


def fetch_all() -> None:
    assert main(["reference"]) == 0
    assert main(["rewards"]) == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_finds_every_difference(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify"]) == 1
    assert "nothing is fetched yet" in capsys.readouterr().err
    fetch_all()
    assert main(["models", "verify", "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert verified["differences"] == []
    assert verified["num_files"] == sum(len(files) for files in read_pins(LOCK).values())

    flipped = paths.REFERENCE / "unet" / "diffusion_pytorch_model.safetensors"
    flip(flipped)
    shortened = paths.REWARDS / "matching" / "model.safetensors"
    shortened.write_bytes(shortened.read_bytes()[:-1])
    missing = paths.REWARDS / "judge" / "config.json"
    missing.unlink()
    extra = paths.INITIAL_GENERATOR / "notes.txt"
    extra.write_text("mine")
    assert main(["models", "verify", "--json"]) == 1
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert {(d["path"], d["problem"]) for d in differences} == {
        (str(flipped), "content"),
        (str(shortened), "size"),
        (str(missing), "missing"),
        (str(extra), "not pinned"),
    }
    assert main(["models", "verify"]) == 1
    assert "4 not as pinned" in " ".join(capsys.readouterr().out.split())


def test_mirror_of_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mirror"]) == 1
    assert "models.mirror is null" in capsys.readouterr().err
    edit(Path("params.yaml"), "models", "mirror", value="file://mirror")
    assert main(["models", "mirror"]) == 0
    hashes = {pin["sha256"] for files in read_pins(LOCK).values() for pin in files.values()}
    assert {path.relative_to("mirror/sha256").name for path in Path("mirror").rglob("*") if path.is_file()} == hashes
    shutil.rmtree("models")
    fetch_all()
    assert main(["models", "verify"]) == 0
    edit(Path("params.yaml"), "models", "mirror", value="ftp://mirror")
    assert main(["models", "mirror"]) == 1
    assert "params.yaml: models.mirror: got 'ftp://mirror'" in capsys.readouterr().err


def test_files_of_the_frechet_distance_are_fetched_beside_the_rewards(project: Path) -> None:
    (project / "fid").mkdir()
    for name in ("real.npz", "inception.pth"):
        (project / "fid" / name).write_bytes(name.encode())
    sources = {"statistics": "file://fid/real.npz", "inception": "file://fid/inception.pth"}
    edit(PROFILE, "evaluate", "fid", value=sources)
    state_licences(project)
    assert main(["models", "lock"]) == 0
    assert main(["rewards"]) == 0
    found = {path.relative_to(paths.FID).as_posix() for path in paths.FID.rglob("*") if path.is_file()}
    assert found == {"statistics/real.npz", "inception/inception.pth", "sources.json"}
    assert json.loads(paths.FID_SOURCES.read_text()) == sources
    assert main(["models", "verify"]) == 0
    (paths.FID / "statistics" / "real.npz").write_bytes(b"real.npy")
    assert main(["models", "verify"]) == 1
