"""Whoever is killed, flow, dvc, trainer or publisher, or if the disk fills: nothing keeps running, the next goes on."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from distar.audit.prune import Stale, prune
from distar.locking import held_if_free, take_lock
from distar.release.releases import release_ids
from distar.release.storage import open_store
from distar.worktree import DVC
from tests.flow.test_kill import wait_for
from tests.miniature import git, with_gain

SIGNALS = (signal.SIGTERM, signal.SIGKILL)


class Scene(NamedTuple):
    """A project, the folder around it that nothing else has to do with, and a Prefect server's address."""

    around: Path
    project: Path
    server: str

    @property
    def temporary(self) -> Path:
        """Where worktrees are made."""
        return self.around / "temporary"

    @property
    def environment(self) -> dict[str, str]:
        """What the processes of a run inherit; they are known by it."""
        return {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "PREFECT_API_URL": self.server,
            "PREFECT_LOGGING_LEVEL": "INFO",
        }

    def retraining(self) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start a retrain, whose log goes to `log`; end it with the body."""
        return self.running_flow("flows.retrain")

    @contextmanager
    def running_flow(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Start a flow, whose log goes to `log`; end it with the body."""
        with (self.around / "log").open("w") as log:
            command = [sys.executable, "-m", *words]
            run = subprocess.Popen(
                command, cwd=self.project, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )
            try:
                yield run
            finally:
                run.kill()
                run.wait()

    def log(self) -> str:
        return (self.around / "log").read_text()

    def retrain(self) -> str:
        """Retrain to the end; return the release, the only one in the store."""
        with self.retraining() as run:
            assert run.wait(300) == 0, self.log()
        (release,) = release_ids(self.store)
        return release

    @property
    def store(self):
        return open_store("file://published", project=self.project)

    def processes(self) -> dict[int, list[str]]:
        """Find every process of a run, wherever it works, and its command line."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.around).encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:  # it ended meanwhile
                continue
        return found

    def running(self, *words: str) -> int | None:
        """Find the process of a run whose command is `python WORDS`."""
        return next((pid for pid, line in self.processes().items() if line[1 : len(words) + 1] == [*words]), None)

    def iteration(self) -> int:
        """Read how far the newest checkpoint is."""
        names = [path.stem for path in self.project.glob(".distar/retrain/*/iteration-*.pt")]
        return max((int(name.removeprefix("iteration-")) for name in names), default=0)

    def assert_quiet(self) -> None:
        """See that no process of a run is left, and that no lock is held; the system drops it last."""
        assert wait_for(lambda: not self.processes(), 30), self.processes()
        for lock in (*self.project.glob(".distar/retrain/*/lock"), *self.temporary.iterdir()):
            assert wait_for(lambda: is_free(lock), 10), lock  # noqa: B023


def is_free(lock: Path) -> bool:
    with held_if_free(lock) as free:
        return free


@pytest.fixture(scope="module")
def undisturbed(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, str]]:
    """Retrain once without a disturbance, and forget the training and the release; return its release."""
    around = tmp_path_factory.mktemp("kill")
    project = shutil.copytree(reproduced_once, around / "project", symlinks=True)
    (around / "temporary").mkdir()
    with_gain(project, num_steps=60)
    for name, patient, hasty in (
        ("retrain", r"(?m)^_SECONDS_BETWEEN_TRIES = .*$", "_SECONDS_BETWEEN_TRIES = (0.5, 0.5)"),
        ("pipeline", "retry_delay_seconds=10", "retry_delay_seconds=0.5"),
    ):
        flow = project / "flows" / f"{name}.py"
        text, count = re.subn(patient, hasty, flow.read_text())
        assert count == 1
        flow.write_text(text)
    git(project, "commit", "-qam", "Longer, and in a hurry")
    shutil.rmtree(project / "published")
    with prefect_test_harness(server_startup_timeout=120):
        scene = Scene(around, project, str(PREFECT_API_URL.value()))
        yield scene, scene.retrain()


def test_a_training_goes_on_whoever_was_killed(undisturbed: tuple[Scene, str]) -> None:
    """Six kills and a full disk in one training; the release is that of the training without any."""
    scene, expected = undisturbed
    forget_the_training(scene.project)
    victims: dict[str, Callable[[subprocess.Popen], int | None]] = {
        "flow": lambda run: run.pid,
        "dvc": lambda _: scene.running(*DVC[1:], "repro"),
        "trainer": lambda _: scene.running("-m", "distar", "train"),
    }
    for name, find in victims.items():
        for number in SIGNALS:
            before = scene.iteration()
            with scene.retraining() as run:
                assert wait_for(lambda: scene.iteration() > before, 120), scene.log()  # noqa: B023
                victim = find(run)
                assert victim is not None, name
                os.kill(victim, number)
                assert run.wait(60) != 0
            scene.assert_quiet()
            assert before == 0 or f"train: goes on from {before}/62" in scene.log(), (name, number)
            assert release_ids(scene.store) == []
            killed_outright = (name, number) == ("flow", signal.SIGKILL)
            assert worktrees(scene) == (2 if killed_outright else 1), (name, number)
            if killed_outright:
                remove_worktrees(scene)
    fill_the_disk(scene)
    at = scene.iteration()
    assert scene.retrain() == expected
    assert f"train: goes on from {at}/62" in scene.log()


def fill_the_disk(scene: Scene) -> None:
    """Retrain until a checkpoint is written, and then let no file grow to the size of a second one."""
    before = scene.iteration()
    with scene.retraining() as run:
        assert wait_for(lambda: scene.iteration() > before, 120), scene.log()
        trainer = scene.running("-m", "distar", "train")
        assert trainer is not None
        resource.prlimit(trainer, resource.RLIMIT_FSIZE, (500_000, 500_000))
        assert run.wait(60) == 1
    assert re.search("StorageError: the checkpoint .* could not be written .*; free space there", scene.log()), (
        scene.log()
    )
    scene.assert_quiet()
    assert release_ids(scene.store) == []
    assert worktrees(scene) == 1


def test_a_publishing_is_whole_or_not_there_whoever_was_killed(undisturbed: tuple[Scene, str]) -> None:
    scene, expected = undisturbed
    for number in SIGNALS:
        forget_the_release(scene.project)
        with in_the_middle_of_publishing(scene) as run:
            run.send_signal(number)
            assert run.wait(60) != 0
            scene.assert_quiet()
        assert release_ids(scene.store) == []
    remove_worktrees(scene)
    assert scene.retrain() == expected


def test_a_killed_publisher_is_repeated(undisturbed: tuple[Scene, str]) -> None:
    scene, expected = undisturbed
    forget_the_release(scene.project)
    with in_the_middle_of_publishing(scene) as run:
        assert_publishing_goes_on(scene, run, "-m", "distar", "publish")
    assert release_ids(scene.store) == [expected]


def test_a_killed_dvc_that_publishes_is_repeated(undisturbed: tuple[Scene, str]) -> None:
    """A retrain publishes without DVC; the pipeline publishes with it."""
    scene, _ = undisturbed
    forget_the_release(scene.project)
    (scene.project / "outputs" / "receipt.json").unlink()
    with in_the_middle_of_publishing(scene, "flows.pipeline", "--only", "publish") as run:
        assert_publishing_goes_on(scene, run, *DVC[1:], "repro")
    assert len(release_ids(scene.store)) == 1
    assert git(scene.project, "status", "--porcelain", "--untracked-files=no") == ""


def assert_publishing_goes_on(scene: Scene, run: subprocess.Popen[str], *victim: str) -> None:
    """Kill a command by each signal: what publishes ends with it, begins anew, and comes to its end after the last."""
    for number in SIGNALS:
        assert wait_for(lambda: scene.running("-m", "distar", "publish") is not None, 60), scene.log()
        publisher, killed = scene.running("-m", "distar", "publish"), scene.running(*victim)
        assert killed is not None
        os.kill(killed, number)
        assert wait_for(lambda: scene.running("-m", "distar", "publish") != publisher, 60)  # noqa: B023
    assert release_ids(scene.store) == []
    (scene.project / "published" / ".lock").unlink()  # which the test holds
    assert run.wait(120) == 0, scene.log()
    scene.assert_quiet()


@contextmanager
def in_the_middle_of_publishing(scene: Scene, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a flow, or a retrain, until all blobs are in the store; documents wait for the store's lock, held here."""
    with (
        take_lock(scene.project / "published" / ".lock"),
        scene.running_flow(*(words or ["flows.retrain"])) as run,
    ):
        assert wait_for(lambda: any((scene.project / "published" / "blobs").glob("sha256/*")), 120), scene.log()
        yield run


def forget_the_release(project: Path) -> None:
    shutil.rmtree(project / "published", ignore_errors=True)


def forget_the_training(project: Path) -> None:
    """Remove the release, the checkpoints and what DVC remembers of the training; it keeps what later stages made."""
    forget_the_release(project)
    shutil.rmtree(project / ".distar", ignore_errors=True)
    for path in (project / ".dvc" / "cache" / "runs").glob("*/*/*"):
        if "distar train" in path.read_text():
            shutil.rmtree(path.parent)


def worktrees(scene: Scene) -> int:
    return git(scene.project, "worktree", "list").count("\n")


def left_over() -> list[Stale]:
    return [one.stale for one in prune(0, delete=False) if one.stale.kind == "worktree"]


def remove_worktrees(scene: Scene) -> None:
    """Let the audit find and remove the worktree of a run that was killed outright."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scene.project)
        patch.setattr(tempfile, "tempdir", str(scene.temporary))
        assert wait_for(lambda: bool(left_over()), 10)
        (found,) = left_over()
        found.remove()
    assert worktrees(scene) == 1
    assert list(scene.temporary.iterdir()) == []


def test_a_lost_server_stops_no_training(undisturbed: tuple[Scene, str]) -> None:
    """The release is made, judged and recorded; the flow says that the server is lost."""
    scene, expected = undisturbed
    forget_the_training(scene.project)
    with a_server(scene.around / "server") as (server, address):
        lonely = scene._replace(server=address)
        with lonely.retraining() as run:
            assert wait_for(lambda: scene.iteration() > 0, 120), scene.log()
            server.kill()
            server.wait()
            assert run.wait(300) == 1
    assert release_ids(scene.store) == [expected]
    assert "train: 62/62" in scene.log()
    assert f"Release {expected} " in scene.log()
    assert f"release {expected[:12]}" in git(scene.project, "log", "--format=%s", "--branches=retrain/*")
    assert "retrain: the Prefect server was lost" in scene.log()
    scene.assert_quiet()
    assert worktrees(scene) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["flows.pipeline"], "pipeline: the Prefect server was lost"),
        (["flows.grid", "grid.yaml"], "grid: the Prefect server was lost"),
    ],
    ids=["pipeline", "grid"],
)
def test_a_lost_server_stops_no_stage(
    undisturbed: tuple[Scene, str], words: list[str], expected: str, tmp_path: Path
) -> None:
    """What was begun is done; the last line says that the server is lost, and how to go on."""
    scene, release = undisturbed
    forget_the_training(scene.project)
    profile = yaml.safe_load((scene.project / "params.yaml").read_text())["profile"]
    grid = {"profile": profile, "seeds": [0], "variants": {"as it is": {}}}
    (scene.project / "grid.yaml").write_text(json.dumps(grid))
    with a_server(tmp_path) as (server, address):
        lonely = scene._replace(server=address)
        with lonely.running_flow(*words) as run:
            assert wait_for(lambda: "Running stage 'train'" in scene.log(), 120), scene.log()
            server.kill()
            server.wait()
            assert run.wait(300) == 1
    assert expected in scene.log().splitlines()[-1]
    assert "it goes on where it stood" in scene.log().splitlines()[-1]
    if words == ["flows.pipeline"]:
        assert release_ids(scene.store) == [release]
    else:
        assert (scene.project / "grid.csv").read_text().count("\n") == 2
    scene.assert_quiet()
    assert worktrees(scene) == 1


@contextmanager
def a_server(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a Prefect server with the limit `gpu`; clients give it up at once when it is gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
        command = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--port", str(port)]
        server = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert wait_for(lambda: answers(f"{address}/health"), 60)
            limit = {"name": "gpu", "limit": 1, "active": True}
            httpx.post(f"{address}/v2/concurrency_limits/", json=limit).raise_for_status()
            yield server, address
        finally:
            server.kill()
            server.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
