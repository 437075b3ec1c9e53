"""A retrain's push to a DVC remote on S3 whose secret stands in the workspace's own settings: nobody else sees it."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from prefect import flow
from prefect.states import State
from prefect.testing.utilities import prefect_test_harness

import flows.retrain
from distar.errors import StorageError
from distar.worktree import worktree
from flows.remote import copy_remote, default_remote
from tests.integration.conftest import SECRET_KEY, S3Server, client_of
from tests.miniature import REPOSITORY, git, git_init, run_dvc

WRONG = "Zx81-not-the-secret/at+all"


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module", autouse=True)
def _bucket(s3_server: S3Server) -> None:
    client_of(s3_server).create_bucket(Bucket="pushed")


@pytest.fixture
def workspace(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one tracked file, and a remote whose credentials are in .dvc/config.local."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "workspace"
    folder.mkdir()
    git_init(folder, [sys.executable, "-m", "dvc", "init", "-q"])
    (folder / "file").write_text("content")
    run_dvc(folder, "add", "-q", "file")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Track a file")
    monkeypatch.chdir(folder)
    name_remote(folder, s3_server, SECRET_KEY)
    return folder


def name_remote(folder: Path, s3: S3Server, secret: str) -> None:
    (folder / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://pushed/dvc\n    endpointurl = {s3.url}\n"
        f"    access_key_id = {s3.access_key}\n    secret_access_key = {secret}\n"
    )


@flow(name="pushing")
def pushing() -> str:
    with worktree("HEAD") as folder:
        run_dvc(folder, "checkout", "-q")
        flows.retrain.push.with_options(retries=0)(folder)
        return oct(stat.S_IMODE((folder / ".dvc" / "config.local").stat().st_mode))


@contextmanager
def watched_commands() -> Iterator[set[bytes]]:
    """Collect the command lines of all processes, as `ps` shows them."""
    seen: set[bytes] = set()
    done = Event()

    def look() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:  # the process is gone
                    continue
            time.sleep(0.005)

    thread = Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_no_command_line_shows_the_remote_s_secret(
    workspace: Path, s3_server: S3Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with watched_commands() as commands:
        assert pushing() == "0o600"
    assert any(b"push" in command for command in commands)
    assert not any(SECRET_KEY.encode() in command for command in commands)
    assert client_of(s3_server).list_objects_v2(Bucket="pushed")["KeyCount"] > 0
    assert SECRET_KEY not in "".join(capfd.readouterr())


def test_a_failed_push_tells_no_secret(workspace: Path, s3_server: S3Server, capfd: pytest.CaptureFixture[str]) -> None:
    name_remote(workspace, s3_server, WRONG)
    state: State = pushing(return_state=True)
    assert state.is_failed()
    assert "push --run-cache` ended with status" in (state.message or "")
    told = f"{state!r}{state.message}{state.result(raise_on_failure=False)}" + "".join(capfd.readouterr())
    assert "Forbidden" in told
    assert WRONG not in told


def test_a_full_disk_tells_no_secret(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "worktree" / ".dvc").mkdir(parents=True)
    program = (
        "import resource, sys; from pathlib import Path; from flows.remote import copy_remote\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "copy_remote('team', Path(), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "worktree")]
    environment = {"PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "StorageError: no space left to write" in result.stderr
    assert "config.local" in result.stderr
    assert SECRET_KEY not in result.stdout + result.stderr
    assert not (tmp_path / "worktree" / ".dvc" / "config.local").exists()


def test_relative_paths_of_a_remote_are_the_workspace_s(workspace: Path, tmp_path: Path) -> None:
    (workspace / ".dvc" / "config.local").write_text(
        '[core]\n    remote = disk\n[\'remote "disk"\']\n    url = ../store\n    password = "a,b\'c-é"\n'
    )
    (tmp_path / "other" / ".dvc").mkdir(parents=True)
    assert default_remote(workspace) == "disk"
    copy_remote("disk", workspace, tmp_path / "other")
    written = (tmp_path / "other" / ".dvc" / "config.local").read_text(encoding="utf-8")
    assert f"url = {workspace / 'store'}\n" in written
    assert 'password = "a,b\'c-é"\n' in written


def test_a_default_remote_that_is_defined_nowhere_is_told(workspace: Path) -> None:
    local = workspace / ".dvc" / "config.local"
    local.write_text("[core]\n    remote = nope\n['remote \"team\"']\n    url = s3://pushed/dvc\n")
    with pytest.raises(StorageError, match="default remote is 'nope', which has no URL; add it"):
        default_remote(workspace)
    local.write_text("[core]\n    remote = Team\n['remote \"team\"']\n    url = s3://pushed/dvc\n")
    assert default_remote(workspace) == "Team"
    local.unlink()
    assert default_remote(workspace) is None
