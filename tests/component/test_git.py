"""Git on other people's machines: hooks, filters, inherited variables, foreign owners, names, places, states."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.audit.repository import Repository
from distar.errors import StorageError
from distar.git import current_revision, environment, in_repository
from distar.lineage.record import WITHOUT_GIT, digests
from distar.worktree import output_of, worktree
from tests.miniature import git, record_of
from tests.references import REPOSITORY

TEXT = "one\ntwo\n"
IDENT = "$Id$\n"
LARGE = b"what git-lfs keeps\n" * 9
LOCK = "stages:\n  prompts:\n    outs:\n    - md5: 0123456789abcdef.dir\n"
HOOKS = ("post-checkout", "post-index-change", "reference-transaction", "pre-commit", "post-commit", "pre-auto-gc")
LOCAL_VARIABLES = subprocess.run(
    ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
).stdout.split()


def repository(folder: Path, below: str = "") -> Path:
    """Make a repository with a project of a few files and a DVC cache; return the project's folder."""
    project = folder / below
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "config").write_text("")
    (project / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (project / "params.yaml").write_text(TEXT)
    (project / "dvc.lock").write_text(LOCK)
    (project / "models").mkdir()
    (project / "models" / "weights.bin").write_bytes(bytes(range(256)))
    for command in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@example.org"],
    ):
        git(folder, *command)
    commit(folder, "Begin")
    return project


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def only_one_worktree(folder: Path) -> bool:
    """Tell whether nothing of a run's worktree is left, in git or in the temporary folder."""
    administered = list(Path(git(folder, "rev-parse", "--git-common-dir").strip()).glob("worktrees/*"))
    return not administered and not list(Path(tempfile.gettempdir()).glob("distar-worktree-*"))


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = repository(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", [*LOCAL_VARIABLES, "DVC_ROOT"])
def test_no_variable_names_another_repository(
    name: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(workspace, "rev-parse", "HEAD").strip()
    other = repository(tmp_path / "other")
    git(other, "commit", "-q", "--allow-empty", "-m", "another")
    places = {"GIT_INDEX_FILE": other / ".git" / "index", "GIT_WORK_TREE": other, "DVC_ROOT": other}
    monkeypatch.setenv(name, str(places.get(name, other / ".git")))
    assert current_revision() == head
    with worktree("HEAD") as folder:
        assert (folder / "params.yaml").read_text() == TEXT
        (folder / "params.yaml").write_text("changed")
        output_of(["git", "add", "params.yaml"], folder)
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.environ)"],
            env=environment(folder), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert name == "GIT_CONFIG_COUNT" or name not in shown.stdout.split()
    monkeypatch.delenv(name)
    assert git(workspace, "status", "--porcelain") == git(other, "status", "--porcelain") == ""
    assert only_one_worktree(workspace)


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("by", ["GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"])
def test_owners_that_the_environment_trusts_stay_trusted(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(monkeypatch)
    with pytest.raises(StorageError, match="dubious ownership"):
        in_repository()
    settings = {
        "GIT_CONFIG_COUNT": {
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        },
        "GIT_CONFIG_PARAMETERS": {"GIT_CONFIG_PARAMETERS": "'safe.directory'='*'"},
    }  # fmt: skip
    for name, value in settings[by].items():
        monkeypatch.setenv(name, value)
    assert in_repository()
    with worktree("HEAD") as folder:
        assert (folder / "params.yaml").read_text() == TEXT


def test_no_hook_runs(workspace: Path, tmp_path: Path) -> None:
    for name in HOOKS:
        hook = workspace / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/ran\nexit 1\n")
        hook.chmod(0o755)
    git_watcher = tmp_path / "watcher"
    shutil.copy(workspace / ".git" / "hooks" / "post-checkout", git_watcher)
    git(workspace, "config", "core.fsmonitor", str(git_watcher))
    with worktree("HEAD") as folder:
        (folder / "params.yaml").write_text("changed")
        output_of(["git", "add", "params.yaml"], folder)
        output_of(["git", "update-ref", "refs/heads/retrain/one", "HEAD"], folder)
    assert not (tmp_path / "ran").exists()
    assert only_one_worktree(workspace)


@pytest.mark.parametrize("settings", [("smudge", "clean"), ("process",)])
@pytest.mark.parametrize("command", ["sed s/o/0/g", "false", "not-installed-anywhere"])
def test_no_filter_runs(settings: tuple[str, ...], command: str, workspace: Path) -> None:
    (workspace / ".gitattributes").write_text("* filter=my.own\n")
    commit(workspace, "Filtered")
    for setting in settings:
        git(workspace, "config", f"filter.my.own.{setting}", command)
    git(workspace, "config", "filter.my.own.required", "true")
    git(workspace, "config", "core.autocrlf", "true")
    git(workspace, "config", "core.eol", "crlf")
    with worktree("HEAD") as folder:
        assert (folder / "params.yaml").read_bytes() == TEXT.encode()
        assert output_of(["git", "status", "--porcelain"], folder) == ""
        (folder / "params.yaml").write_text("two\n")
        output_of(["git", "add", "params.yaml"], folder)
        assert output_of(["git", "show", ":params.yaml"], folder) == "two"
    assert only_one_worktree(workspace)


@pytest.mark.parametrize(
    "attributes", ["* text=auto eol=crlf", "* ident", "*.yaml text working-tree-encoding=UTF-16LE"]
)
def test_no_attributes_of_the_user_apply(attributes: str, workspace: Path, tmp_path: Path) -> None:
    Path("ident.txt").write_text(IDENT)
    commit(workspace, "Ident")
    own = tmp_path / "attributes"
    own.write_text(f"{attributes}\n")
    git(workspace, "config", "core.attributesFile", str(own))
    with worktree("HEAD") as folder:
        assert (folder / "params.yaml").read_bytes() == TEXT.encode()
        assert (folder / "ident.txt").read_bytes() == IDENT.encode()
        assert output_of(["git", "status", "--porcelain"], folder) == ""
    git(workspace, "config", "--unset", "core.attributesFile")
    of_clone = workspace / ".git" / "info" / "attributes"
    of_clone.write_text(f"# {attributes}\n*.ipynb filter=mine\n*.png binary\n")
    with worktree("HEAD") as folder:
        assert (folder / "params.yaml").read_bytes() == TEXT.encode()
    of_clone.write_text(f"*.ipynb filter=mine\n{attributes}\n")
    with pytest.raises(StorageError, match=r"info/attributes has .*; move that to .gitattributes"), worktree("HEAD"):
        pass
    assert only_one_worktree(workspace)


@pytest.mark.parametrize("cone", ["--cone", "--no-cone"])
def test_a_sparse_clone_has_whole_worktrees(cone: str, workspace: Path) -> None:
    Path("flows").mkdir()
    Path("flows/one.py").write_text("")
    commit(workspace, "Flows")
    git(workspace, "sparse-checkout", "set", cone, "flows", ".dvc")
    assert not Path("models").exists()
    before = {path: path.read_bytes() for path in Path(".git").glob("config*")}
    with worktree("HEAD") as folder:
        assert (folder / "models" / "weights.bin").is_file()
        assert output_of(["git", "status", "--porcelain"], folder) == ""
    assert not Path("models").exists()
    assert {path: path.read_bytes() for path in Path(".git").glob("config*")} == before
    assert git(workspace, "status", "--porcelain") == ""
    assert only_one_worktree(workspace)


def test_a_temporary_folder_of_any_name_keeps_no_worktree(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "of two\nlines"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with worktree("HEAD") as folder:
        assert place in folder.parents
        assert (folder / "params.yaml").read_text() == TEXT
    assert only_one_worktree(workspace)


def test_files_of_git_lfs_are_put_in_place(workspace: Path) -> None:
    sha256 = hashlib.sha256(LARGE).hexdigest()
    weights = Path("models/weights.bin")
    weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(LARGE)}\n")
    absent = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3\n"
    Path("models/absent.bin").write_text(absent)
    (workspace / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    commit(workspace, "Large")
    stored = workspace / ".git" / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256
    stored.parent.mkdir(parents=True)
    stored.write_bytes(LARGE)
    for setting in ("smudge", "clean", "process"):
        git(workspace, "config", f"filter.lfs.{setting}", "git-lfs-that-is-not-installed")
    git(workspace, "config", "filter.lfs.required", "true")
    with worktree("HEAD") as folder:
        assert (folder / weights).read_bytes() == LARGE
        assert (folder / "models" / "absent.bin").read_text() == absent
        assert output_of(["git", "status", "--porcelain"], folder) == ""
    weights.write_bytes(LARGE)  # as git-lfs puts it into the workspace
    assert Repository().digests(current_revision(), [str(weights)]) == {str(weights): sha256}
    Path("models/absent.bin").unlink()
    git(workspace, "-c", "filter.lfs.required=false", "rm", "-q", "--cached", "models/absent.bin")
    git(workspace, "commit", "-q", "-m", "One alone")
    whole = digests([Path("models")])["models"]
    assert whole is not None
    assert Repository().digests(current_revision(), ["models"]) == {"models": whole["sha256"]}


@pytest.mark.parametrize(
    ("revision", "expected"), [("no-such-branch", "invalid reference: no-such-branch"), ("without", "has no .dvc")]
)
def test_what_cannot_be_checked_out_leaves_nothing(revision: str, expected: str, workspace: Path) -> None:
    git(workspace, "checkout", "-q", "-b", "without")
    git(workspace, "rm", "-rq", ".dvc")
    git(workspace, "commit", "-q", "-m", "No DVC")
    git(workspace, "checkout", "-q", "main")
    with pytest.raises(StorageError, match=expected), worktree(revision):
        pass
    assert only_one_worktree(workspace)


def test_a_body_that_fails_leaves_nothing(workspace: Path) -> None:
    def body() -> None:
        with worktree("HEAD") as folder:
            (folder / "new").write_text("untracked")
            git(workspace, "worktree", "lock", str(folder))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        body()
    assert only_one_worktree(workspace)


RUN = """
import time
from distar.worktree import worktree
with worktree("HEAD"):
    print("there", flush=True)
    time.sleep(0 if {} else 60)
"""
GIT = """#!/bin/sh
case "$*" in *"{step}"*)
    [ -e {once} ] || {{ touch {once}; {before}; {git} "$@"; status=$?; {after}; exit $status; }}
esac
exec {git} "$@"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["worktree add", "reset", "ls-files", "worktree list", "worktree remove"])
def test_signals_at_any_step_leave_nothing(step: str, when: str, number: int, workspace: Path, tmp_path: Path) -> None:
    kill = f"kill -{number} $PPID; sleep 0.2"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(
        GIT.format(
            step=step,
            once=tmp_path / "once",
            git=shutil.which("git"),
            **{"before": "true", "after": "true", when: kill},
        )
    )
    wrapper.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format("worktree" in step)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (tmp_path / "once").exists()
    assert done.returncode != 0, done.stderr
    assert only_one_worktree(workspace)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_body_leaves_nothing(number: int, workspace: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", RUN.format("False")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"there\n"
        running.send_signal(number)
        assert running.wait(timeout=30) != 0
    assert only_one_worktree(workspace)


@pytest.mark.parametrize(
    "name", ["grün", "用户", "a b", "it's", 'a "q"', "50%", "%(dir)s", "a,b", "#1", "${x}", "a;b", "[c]"]
)
def test_folders_of_any_name_have_worktrees(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository(tmp_path / name, below=f"in {name}")
    monkeypatch.chdir(folder)
    cache = Path(output_of([sys.executable, "-m", "dvc", "cache", "dir"]))
    assert cache == folder / ".dvc" / "cache"
    with worktree("HEAD") as there:
        assert (there / "params.yaml").read_text() == TEXT
        found = Path(output_of([sys.executable, "-m", "dvc", "cache", "dir"], there))
        (found / "written").parent.mkdir(parents=True, exist_ok=True)
        (found / "written").write_text("shared")
        assert output_of(["git", "status", "--porcelain"], there) == ""
    assert (cache / "written").read_text() == "shared"
    assert only_one_worktree(folder)


def test_a_cache_that_is_configured_is_shared(workspace: Path, tmp_path: Path) -> None:
    (workspace / ".dvc" / "config").write_text("[cache]\n    dir = ../../elsewhere\n")
    commit(workspace, "Cache")
    with worktree("HEAD") as there:
        found = Path(output_of([sys.executable, "-m", "dvc", "cache", "dir"], there))
        assert found.resolve() == (tmp_path / "elsewhere").resolve()


def test_commits_that_put_a_hash_into_the_lock_are_found(tmp_path: Path) -> None:
    project = repository(tmp_path / "project")
    first, second, third, unused = (digit * 32 for digit in "1234")

    def locked(*md5s: str) -> str:
        (project / "dvc.lock").write_text("".join(f"md5: {md5}\n" for md5 in md5s))
        commit(project, "Lock")
        return git(project, "rev-parse", "HEAD").strip()

    both = locked(f"{first}.dir", second)
    one = locked(first)
    git(project, "checkout", "-q", "-b", "other", both)
    other = locked(f"{first}.dir", second, third)
    git(project, "checkout", "-q", "main")
    git(project, "merge", "-q", "-s", "ours", "-m", "Merge", "other")
    again = locked(first, third)
    found = Repository(project).commits_with_any([first, second, third, unused, second[:8], f"{first}.dir"])
    for md5, commits in found.items():
        searched = git(project, "log", "--all", "--reverse", "--format=%H", f"-S{md5}", "--", "dvc.lock").split()
        assert commits == [name for name in searched if md5 in git(project, "show", f"{name}:dvc.lock")]
    assert found[third] == [other, again]
    assert found[unused] == []
    assert one not in found[second]


def test_a_project_below_its_repository_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = repository(tmp_path / "whole", below="teams/align")
    (tmp_path / "whole" / "params.yaml").write_text("another project's\n")
    (tmp_path / "whole" / "dvc.lock").write_text(LOCK.replace("0123", "4567"))
    commit(tmp_path / "whole", "Beside")
    monkeypatch.chdir(project)
    first, last = git(project, "rev-parse", "HEAD~1", "HEAD").split()
    whole = digests([Path("models"), Path("params.yaml")])
    for seen in (Repository(), Repository(project)):
        assert seen.read("HEAD", "params.yaml") == TEXT.encode()
        assert seen.read("HEAD", "whole") is None
        assert seen.digests(last, whole) == {name: (digest or {})["sha256"] for name, digest in whole.items()}
        assert seen.commits_with("0123456789abcdef.dir") == [first]
        assert seen.commits_with("4567456789abcdef.dir") == []
    with worktree(last) as there:
        assert (there / "params.yaml").read_text() == TEXT
        assert there.parts[-2:] == ("teams", "align")
    assert only_one_worktree(project)


# Records of runs


def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have git take every repository for another user's, as it does for an owner that is another."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def no_commit(project: Path) -> None:
    shutil.rmtree(project / ".git")
    git(project, "init", "-q")


def damaged(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / ".git").write_text("gitdir: /nowhere/worktrees/project\n")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda patch, project: foreign(patch), "detected dubious ownership"),
        (lambda patch, project: without_git(patch, project.parent), "git is not installed"),
        (lambda patch, project: no_commit(project), "there is no commit yet"),
        (lambda patch, project: damaged(project), "not a git repository: /nowhere"),
    ],
    ids=["another owner", "git not installed", "no commit", "worktree without its repository"],
)
def test_a_stage_does_not_run_where_git_tells_no_commit(
    make: Callable[[pytest.MonkeyPatch, Path], None],
    expected: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository_of(project)
    make(monkeypatch, project)
    assert main(["prompts"]) == 1
    told = capsys.readouterr().err
    assert expected in told
    assert f"{WITHOUT_GIT}=1" in told
    assert not Path("outputs/prompts").exists()
    assert not Path("runs").exists()
    monkeypatch.setenv(WITHOUT_GIT, "1")
    assert main(["prompts"]) == 0
    assert record_of("prompts")["git"] is None


def repository_of(project: Path) -> None:
    for command in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@example.org"],
    ):
        git(project, *command)
    commit(project, "Begin")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_project_of_another_owner_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository_of(project)
    for place in [project, *project.rglob("*")]:
        os.chown(place, 1234, 1234)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    assert main(["publish"]) == 1
    assert "dubious ownership" in capsys.readouterr().err
    with pytest.raises(StorageError, match="dubious ownership"):
        Repository().known(["0" * 40])
    with pytest.raises(StorageError, match="dubious ownership"):
        current_revision()


@pytest.mark.parametrize("installed", [True, False])
def test_an_exported_tree_records_no_commit(
    installed: bool, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()  # an empty one is no repository, and git looks on above it
    if not installed:
        (tmp_path / ".git").rmdir()
        without_git(monkeypatch, tmp_path)
    assert main(["prompts"]) == 0
    assert record_of("prompts", project)["git"] is None
    assert not in_repository()


def test_a_record_names_the_folders_own_commit(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository_of(project)
    other = repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert main(["prompts"]) == 0
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name)
    state = record_of("prompts")["git"]
    assert state == {"commit": git(project, "rev-parse", "HEAD").strip(), "changed": [], "remote": None}


def test_changes_of_a_project_below_its_repository(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whöle"
    whole.mkdir()
    project.rename(whole / " align")
    monkeypatch.chdir(whole / " align")
    (whole / "beside.txt").write_text("one")
    repository_of(whole)
    (whole / "beside.txt").write_text("two")
    Path("prompts/grün.txt").write_text("new")
    Path("requirements/lock.txt").write_text("changed")
    assert main(["prompts"]) == 0
    assert record_of("prompts")["git"]["changed"] == ["prompts/grün.txt", "requirements/lock.txt"]


# States of a repository


def detached(project: Path) -> Path:
    git(project, "checkout", "-q", "--detach")
    return project


def shallow(project: Path) -> Path:
    git(project, "commit", "-q", "--allow-empty", "-m", "Again")
    git(project, "clone", "-q", "--depth=1", project.as_uri(), str(project.parent / "shallow"))
    return project.parent / "shallow"


def of_a_bare_repository(project: Path) -> Path:
    bare = project.parent / "bare.git"
    git(project, "clone", "-q", "--bare", str(project), str(bare))
    git(bare, "worktree", "add", "-q", "../mine", "main")
    return project.parent / "mine"


def linked(project: Path) -> Path:
    git(project, "worktree", "add", "-q", "-b", "feature", "../feature")
    return project.parent / "feature"


def submodule(project: Path) -> Path:
    outer = repository(project.parent / "outer")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "inner")
    commit(outer, "Inner")
    return outer / "inner"


def with_a_submodule(project: Path) -> Path:
    outer = repository(project.parent / "outer")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "inner")
    commit(outer, "Inner")
    git(outer, "config", "submodule.recurse", "true")
    return outer


def with_leftovers(project: Path) -> Path:
    for number in range(2):
        place = project.parent / f"killed-{number}" / "project"
        git(project, "worktree", "add", "-q", "--detach", str(place))
        if number:
            git(project, "worktree", "lock", str(place))
        shutil.rmtree(place.parent)
    return project


STATES = [detached, shallow, of_a_bare_repository, linked, submodule, with_a_submodule, with_leftovers]


@pytest.mark.parametrize("state", STATES)
def test_worktrees_of_any_repository(
    state: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = state(repository(tmp_path / "project"))
    monkeypatch.chdir(folder)
    before = git(folder, "worktree", "list")
    head = git(folder, "rev-parse", "HEAD").strip()
    with worktree("HEAD") as there:
        assert (there / "params.yaml").read_text() == TEXT
        assert output_of(["git", "rev-parse", "HEAD"], there) == head
        assert output_of(["git", "status", "--porcelain"], there) == ""
    assert git(folder, "worktree", "list") == before
    assert git(folder, "status", "--porcelain") == ""
    assert Repository().read("HEAD", "params.yaml") == TEXT.encode()


def test_what_there_is_no_commit_of_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="there is no commit yet"):
        current_revision()


# Line ends


@pytest.mark.parametrize(
    "settings", [("core.autocrlf=true",), ("core.autocrlf=false", "core.eol=crlf"), ("core.autocrlf=input",)]
)
def test_clones_with_other_line_ends_hold_what_was_committed(settings: tuple[str, ...], tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, origin / name)
    repository_of(origin)
    options = [word for setting in settings for word in ("-c", setting)]
    git(tmp_path, "clone", "-q", *options, str(origin), "clone")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            assert (tmp_path / "clone" / name).read_bytes() == (REPOSITORY / name).read_bytes(), name
    assert git(tmp_path / "clone", *options, "status", "--porcelain") == ""
