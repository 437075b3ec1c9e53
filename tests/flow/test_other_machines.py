"""The miniature on other people's machines: begun from hooks, with hooks, in odd places, below a larger repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distar.__main__ import main
from distar.release.releases import find, release_ids
from distar.release.storage import open_store
from flows.pipeline import main as pipeline
from flows.retrain import main as retrain
from tests.miniature import edit, git, record_of, run_dvc, with_pipeline

CHANGE = ["--set", "train.reward_scale=0.5"]
PROFILE = "profiles/mini.yaml"


def run(folder: Path, *arguments: str) -> str:
    """Run a module in a project, as a user does, and return what it prints."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def verified(capsys: pytest.CaptureFixture[str], release: str) -> list[dict[str, Any]]:
    """Return the gaps that the audit finds."""
    capsys.readouterr()
    main(["audit", "verify", release, "--json"])
    return [check for check in json.loads(capsys.readouterr().out)["checks"] if check["outcome"] == "gap"]


@pytest.mark.parametrize("main", [pipeline, retrain])
def test_a_branch_without_a_commit_is_told_before_prefect_begins(
    main: Callable[[list[str]], int], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_pipeline(project)
    shutil.rmtree(".git")
    git(project, "init", "-q")
    assert main([]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "there is no commit yet" in told


@pytest.mark.slow
@pytest.mark.parametrize("linked", [True, False])
def test_a_retrain_from_a_hook_leaves_the_index(linked: bool, reproduced: Path, tmp_path: Path) -> None:
    workspace, log = reproduced, tmp_path / "log"
    if linked:
        workspace = tmp_path / "feature"
        git(reproduced, "worktree", "add", "-q", "-b", "feature", str(workspace))
        run_dvc(workspace, "cache", "dir", "--local", str(reproduced / ".dvc" / "cache"))
        run_dvc(workspace, "checkout", "-q", "--allow-missing")
    hook = reproduced / ".git" / "hooks" / "post-commit"
    hook.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m flows.retrain {' '.join(CHANGE)} >'{log}' 2>&1\n")
    hook.chmod(0o755)
    git(workspace, "commit", "-q", "--allow-empty", "-m", "Anything")
    assert "recorded on retrain/" in log.read_text(), log.read_text()
    assert git(workspace, "status", "--porcelain") == ""
    assert git(workspace, "diff", "--cached", "--stat") == ""
    record = record_of("train", workspace)
    assert record["git"] == {
        "commit": git(workspace, "rev-parse", "HEAD").strip(), "changed": [PROFILE], "remote": None
    }  # fmt: skip
    changed = git(workspace, "diff", "--name-only", "HEAD", *git(workspace, "branch", "--list", "retrain/*").split())
    assert changed.split() == ["dvc.lock", "metrics.json", PROFILE]
    assert git(workspace, "worktree", "list").count("\n") == 1 + linked


@pytest.mark.parametrize("name", ["grün", "用户", 'it\'s a "50%" %(dir)s, #1'])
def test_changes_are_foreseen_in_any_place_with_any_hooks(
    name: str, reproduced: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = reproduced.rename(reproduced.with_name(name))
    monkeypatch.chdir(folder)
    run_dvc(folder, "install", "-q")
    (folder / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\necho 'git-lfs is missing' >&2\nexit 2\n")
    capsys.readouterr()
    assert pipeline([*CHANGE, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("up to date") == 5
    assert git(folder, "worktree", "list").count("\n") == 1


@pytest.mark.slow
def test_a_project_below_a_repository_is_run_and_audited(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, project = tmp_path / "whole", tmp_path / "whole" / "gr ün"
    whole.mkdir()
    reproduced.rename(project)
    monkeypatch.chdir(project)
    (project / ".git").rename(whole / ".git")
    (whole / "params.yaml").write_text("another: project\n")
    git(whole, "add", "-A")
    git(whole, "commit", "-qm", "Move")
    (whole / "beside.txt").write_text("not the project's")
    run(project, "flows.retrain", *CHANGE)
    assert git(project, "status", "--porcelain") == "?? beside.txt\n"
    assert record_of("package")["git"]["changed"] == [PROFILE]
    store = open_store("file://published")
    (release,) = {*release_ids(store)} - {find(store, "latest")}
    assert verified(capsys, release) == []
    (branch,) = git(project, "branch", "--list", "retrain/*").split()
    changed = git(whole, "diff", "-z", "--name-only", "HEAD", branch).split("\0")[:-1]
    assert changed == [f"gr ün/{name}" for name in ("dvc.lock", "metrics.json", PROFILE)]
    assert main(["audit", "reproduce", release, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reproduction"] == release
    assert git(project, "worktree", "list").count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--temp"], ["--queue"]])
def test_experiments_beside_the_workspace_publish_and_record_in_it(
    options: list[str], reproduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store("file://published")
    before = find(store, "latest")
    run_dvc(reproduced, "exp", "run", *options, "-n", "other", "-S", f"{PROFILE}:train.reward_scale=0.5")
    if options == ["--queue"]:
        run_dvc(reproduced, "exp", "run", "--run-all", "-j", "1")
    release = find(store, "latest")
    assert release != before
    assert record_of("publish")["outputs"]["outputs/receipt.json"] is not None
    assert list(Path(".distar/train").iterdir())
    run_dvc(reproduced, "exp", "apply", "other")
    git(reproduced, "add", "-A")
    git(reproduced, "commit", "-qm", "Apply")
    assert verified(capsys, release) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_retrain_in_a_project_of_another_owner_is_refused(
    reproduced: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in [reproduced, *reproduced.rglob("*")]:
        os.chown(place, 1234, 1234, follow_symlinks=False)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    edit(Path("params.yaml"), "publish", "url", value="file://elsewhere")
    assert pipeline([*CHANGE, "--dry-run"]) == 1
    assert "dubious ownership" in capsys.readouterr().err
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "dubious ownership" in done.stdout + done.stderr
    assert not Path("elsewhere").exists()
