"""The team's DVC remote on S3: what one clone has computed, a fresh clone takes from the remote instead of running."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distar.__main__ import STAGES, main
from distar.hashing import pin_folder
from tests.integration.conftest import S3Server
from tests.miniature import edit, make_project, run_dvc, with_pipeline

RECEIPT = "outputs/receipt.json"


@pytest.fixture
def first(tmp_path: Path, miniature_models: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that has run everything, committed what a team shares, and pushed."""
    folder = with_pipeline(make_project(tmp_path / "first", miniature_models))
    edit(folder / "params.yaml", "publish", "url", value=f"file://{tmp_path}/store")
    monkeypatch.chdir(folder)
    for stage in STAGES:
        assert main([stage]) == 0
    run_dvc(folder, "commit", "--force")  # as `dvc repro` leaves it, without a new process for each stage
    run_dvc(folder, "remote", "add", "-d", "team", f"s3://{bucket}/dvc")
    run_dvc(folder, "remote", "modify", "team", "endpointurl", s3.url)
    git(folder, "add", "-A")
    git(folder, "add", "--force", RECEIPT)
    git(folder, "commit", "-qm", "Reproduce")
    run_dvc(folder, "push", "--run-cache")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def clone(folder: Path, name: str) -> Path:
    git(folder.parent, "clone", "-q", str(folder), name)
    return folder.parent / name


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def changed(folder: Path) -> dict:
    return json.loads(run_dvc(folder, "status", "--json"))


def test_a_fresh_clone_runs_nothing_and_has_the_same_bytes(first: Path) -> None:
    second = clone(first, "second")
    assert stages_run(run_dvc(second, "repro", "--pull")) == []
    assert pin_folder(second / "outputs" / "release") == pin_folder(first / "outputs" / "release")
    assert (second / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()
    assert changed(second) == {}
    assert not (second / "runs").exists()  # the records are no outputs: the page says how to share them

    # Without the receipt in git, a clone has all but that, and publishes for itself when it is next reproduced
    git(first, "rm", "-q", "--cached", RECEIPT)
    git(first, "commit", "-qm", "Let each clone publish")
    third = clone(first, "third")
    run_dvc(third, "pull")
    assert set(changed(third)) == {"publish"}
    assert stages_run(run_dvc(third, "repro", "--pull")) == []
    assert not (third / RECEIPT).exists()
    assert stages_run(run_dvc(third, "repro")) == ["publish"]
    assert (third / RECEIPT).read_bytes() == (first / RECEIPT).read_bytes()


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A project with one tracked file."""
    git(tmp_path, "init", "-q")
    run_dvc(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("content")
    run_dvc(tmp_path, "add", "-q", "file")
    return tmp_path


def refused(folder: Path, command: str, s3: S3Server, url: str, secret: str) -> str:
    (folder / ".dvc" / "config").write_text(f"[core]\nremote = team\n['remote \"team\"']\nurl = {url}\n")
    (folder / ".dvc" / "config.local").write_text(
        f"['remote \"team\"']\nendpointurl = {s3.url}\naccess_key_id = {s3.access_key}\nsecret_access_key = {secret}\n"
    )
    words = [sys.executable, "-m", "dvc", command]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    return result.stdout + result.stderr


def test_wrong_credentials_and_a_bucket_that_is_not_there_are_told(tracked: Path, s3: S3Server, bucket: str) -> None:
    assert "Forbidden" in refused(tracked, "push", s3, f"s3://{bucket}/dvc", "wrong")
    shutil.rmtree(tracked / ".dvc" / "cache")
    (tracked / "file").unlink()
    told = refused(tracked, "pull", s3, "s3://no-such-bucket/dvc", s3.secret_key)
    assert "do not exist neither locally nor on remote" in told
