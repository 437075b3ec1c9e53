"""Retrains of a miniature project: a first champion, a hacked candidate, a better one; the workspace left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

import flows.retrain
from distar.__main__ import main
from distar.errors import ParameterError, StorageError
from distar.release.releases import find, history, move, read_alias, release_ids
from distar.release.storage import open_store
from flows.retrain import Outcome, retrain
from tests.miniature import edit, git, run_dvc, with_gain

PROFILE = Path("profiles/mini.yaml")
STORE = "file://published"
GROWING = (".dvc/cache", ".dvc/tmp", ".distar", "runs", "published", ".git/objects", ".git/logs/refs/heads/retrain")
LONGER = {"train.num_steps": 20}


class Story(NamedTuple):
    """A project with three retrains, one after the other, and what was there before and after them."""

    project: Path
    began_with: str
    first: Outcome
    hacked: Outcome
    better: Outcome
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Run a Prefect server; return its address."""
    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def story(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory, server: str) -> Iterator[Story]:
    project = shutil.copytree(reproduced_once, tmp_path_factory.mktemp("story") / "project", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        run_dvc(project, "remote", "add", "-d", "team", "../remote")
        with_gain(project, num_steps=12)
        git(project, "commit", "-qam", "More reward")
        store = open_store(STORE)
        began_with = find(store, "latest")
        make_dirty()
        before = files_of(project)
        first = retrain(reason="the first")
        hacked = retrain(changes={**LONGER, "retrain.gate.max_loss.matching": 0.3})

        def judge_slowly(*arguments: Any) -> Any:
            """Judge, while somebody else promotes another release."""
            patch.setattr(flows.retrain, "judge", judge)
            move(store, "champion", began_with, expected=first.release)
            return judge(*arguments)

        judge = flows.retrain.judge
        patch.setattr(flows.retrain, "judge", judge_slowly)
        better = retrain(changes=LONGER, reason="more steps")
        yield Story(project, began_with, first, hacked, better, before, files_of(project))


@pytest.fixture
def _in_the_story(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(story.project)


def make_dirty() -> None:
    """Leave the workspace as somebody does who is in the middle of something, with DVC running."""
    edit(PROFILE, "train", "reward_scale", value=99.0)
    Path("staged.txt").write_text("staged")
    git(Path(), "add", "staged.txt")
    Path("untracked.txt").write_text("not tracked")
    Path("requirements/lock.txt").unlink()
    lock = {str(Path("outputs/generator").absolute()): {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(lock))


def files_of(project: Path) -> dict[str, bytes]:
    """Read every file of a project but those that a retrain may add to."""
    files = {path.relative_to(project).as_posix(): path for path in project.rglob("*") if path.is_file()}
    lasting = {name: path for name, path in files.items() if not name.startswith(GROWING)}
    lasting[".dvc/tmp/rwlock"] = files[".dvc/tmp/rwlock"]
    return {name: path.read_bytes() for name, path in lasting.items()}


def message_of(branch: str) -> str:
    return git(Path(), "log", "-1", "--format=%B", branch)


def gaps_of(release: str, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    capsys.readouterr()
    main(["audit", "verify", release, "--json"])
    return json.loads(capsys.readouterr().out)["gaps"]


@pytest.mark.usefixtures("_in_the_story")
def test_the_first_that_passes_becomes_champion_and_latest(story: Story) -> None:
    assert story.first.promoted
    assert story.first.verdict.against == "initial generator"
    assert history(open_store(STORE), "champion")[0].to_release == story.first.release
    assert [one.to_release for one in history(open_store(STORE), "latest")] == [
        story.began_with,
        story.first.release,
        story.better.release,
    ]


@pytest.mark.usefixtures("_in_the_story")
def test_a_hacked_candidate_is_published_and_recorded_but_not_promoted(story: Story) -> None:
    """Its reward rose; the matching score, which it was not trained on, fell: the same that a laxer gate lets pass."""
    failed = [check.figure for check in story.hacked.verdict.checks if not check.passed]
    assert (story.hacked.promoted, failed) == (False, ["matching"])
    assert story.hacked.release in release_ids(open_store(STORE))
    told = message_of(story.hacked.branch)
    assert "does not pass the gate" in told
    assert f"Champion: {story.first.release}" in told
    assert story.hacked.verdict.summary in told


@pytest.mark.usefixtures("_in_the_story")
def test_a_champion_that_changed_meanwhile_is_judged_against_and_not_overwritten(story: Story) -> None:
    assert story.better.promoted
    moves = [(one.from_release, one.to_release) for one in history(open_store(STORE), "champion")]
    assert moves == [
        (None, story.first.release),
        (story.first.release, story.began_with),
        (story.began_with, story.better.release),
    ]
    told = message_of(story.better.branch)
    assert f"Champion: {story.began_with}" in told
    assert "Reason: more steps" in told
    assert git(Path(), "rev-list", "--count", f"main..{story.better.branch}").strip() == "1"


@pytest.mark.usefixtures("_in_the_story")
def test_the_audit_finds_each_run_on_its_branch(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    for outcome in (story.first, story.better):
        assert gaps_of(outcome.release, capsys) == []
        main(["audit", "show", outcome.release, "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert git(Path(), "rev-parse", outcome.branch).strip() in shown["origin"]["recorded_by"]
    parameters = git(Path(), "show", f"{story.better.branch}:{PROFILE}")
    assert "num_steps: 20" in parameters
    assert "reward_scale: 10.0" in parameters
    metrics = json.loads(git(Path(), "show", f"{story.better.branch}:metrics.json"))
    assert metrics["generator"]["rewards"]["preference"]["mean"] == story.better.verdict.checks[0].candidate


@pytest.mark.usefixtures("_in_the_story")
def test_the_workspace_is_as_it_was(story: Story) -> None:
    branches = {f".git/refs/heads/{one.branch}" for one in (story.first, story.hacked, story.better)}
    assert story.after.keys() - story.before.keys() == branches
    assert {name for name, content in story.before.items() if story.after.get(name) != content} == set()
    assert git(Path(), "worktree", "list").count("\n") == 1


def test_what_dvc_keeps_is_pushed_to_the_remote_as_the_workspace_names_it(story: Story, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--branch", story.better.branch, str(story.project), str(clone))
    run_dvc(clone, "remote", "modify", "--local", "team", "url", str(story.project.parent / "remote"))
    run_dvc(clone, "pull", "-q", "outputs/release")
    assert (clone / "outputs" / "release" / "manifest.json").is_file()


def test_the_verdict_is_attached_to_the_flow_run(story: Story) -> None:
    from prefect.artifacts import Artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    assert [run.state_name for run in runs] == ["Promoted", "Rejected", "Promoted"]
    assert [str(run.id) in message_of(one.branch) for run, one in zip(runs, story[2:5], strict=True)] == [True] * 3
    artifact: Any = Artifact.get("retrain")  # a coroutine where there is an event loop, which pyright thinks of
    assert artifact is not None
    assert story.better.verdict.summary in str(artifact.data)


def test_two_at_once_leave_one_champion_and_both_records(story: Story, tmp_path: Path, server: str) -> None:
    project = shutil.copytree(story.project, tmp_path / "project", symlinks=True)
    (project / "published" / "aliases" / "champion.json").unlink()
    for branch in git(project, "for-each-ref", "--format=%(refname)", "refs/heads/retrain").split():
        git(project, "update-ref", "-d", branch)
    environment = {**os.environ, "PREFECT_API_URL": server}
    command = [sys.executable, "-m", "flows.retrain"]
    runs = [
        subprocess.Popen([*command, *more], cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--set", "train.num_steps=20"])
    ]
    told = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    store = open_store(STORE, project=project)
    assert read_alias(store, "champion").release == story.better.release  # whoever came first, it is the better one
    moves = [one.to_release for one in history(store, "champion")]
    assert moves in ([story.better.release], [story.first.release, story.better.release])
    recorded = git(project, "log", "--format=%s", "--branches=retrain/*", "^main")
    for outcome in (story.first, story.better):
        assert f"release {outcome.release[:12]}" in recorded


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"revision": "nowhere"}, "revision: got 'nowhere'"),
        ({"revision": "--all"}, "revision: got '--all'"),
        ({"profile": "nobody"}, "profiles/nobody.yaml does not exist at commit"),
        ({"changes": {"train.reward_scail": 1.0}}, "train.reward_scail: there is no such parameter"),
        ({"changes": {"retrain.gate.max_loss": {"judge": 0.1}}}, "max_loss says nothing of matching"),
        ({"changes": {"retrain.gate.min_diversity_ratio": "low"}}, "retrain.gate.min_diversity_ratio: got 'low'"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_made(
    asked: dict[str, Any], expected: str, reproduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.retrain, "worktree", lambda commit: pytest.fail(f"a worktree of {commit} was made"))
    with pytest.raises(ParameterError, match=f"(?s){expected}"):
        retrain(**asked)
    assert git(reproduced, "branch", "--list", "retrain/*") == ""


@pytest.mark.usefixtures("reproduced")
def test_clone_of_another_owner_is_refused_in_gits_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match="git says: fatal: detected dubious ownership in repository"):
        flows.retrain.make_plan("HEAD", None, {}, "by hand")


@pytest.mark.usefixtures("reproduced")
def test_a_default_remote_that_is_defined_nowhere_is_refused_before_anything_begins() -> None:
    with Path(".dvc/config.local").open("a") as config:
        config.write("[core]\n    remote = nope\n")
    with pytest.raises(StorageError, match="default remote is 'nope', which has no URL"):
        flows.retrain.make_plan("HEAD", None, {}, "by hand")
