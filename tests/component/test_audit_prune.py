"""`distar audit prune` in a real git repository, with locks that other processes hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.audit.prune import prune
from distar.errors import StorageError, WorkDirectoryError
from distar.release.package import write_manifest
from distar.release.releases import alias_name, move, publish
from distar.release.storage import open_store
from distar.releasing import at_hand

PARAMS = """profile: tiny
seed: 0
publish:
  url: {url}
  endpoint_url: null
  signing_key: null
  trusted_keys: []
models:
  mirror: null
retrain:
  gate: {{min_gain: {{}}, max_loss: {{}}, min_diversity_ratio: 0.0, max_saturation_ratio: 1.0, max_clipped_rise: 1.0}}
  schedule: null
  watch: null
"""
DAYS_OLD = 40
OLD = time.time() - DAYS_OLD * 86400
HASH = "0123456789abcdef" * 4

TAKE_LOCK = "from distar.locking import take_lock; lock = take_lock(Path(sys.argv[1]))"
HOLD_FOLDER = "from distar.locking import held_if_free; held = held_if_free(Path(sys.argv[1])); assert held.__enter__()"
WRITE = """
from distar.atomic import written_whole
writing = written_whole(Path(sys.argv[1]))
partial = writing.__enter__()
partial.mkdir()
(partial / "half.txt").write_text("half")
"""
EXPORT = """
from types import SimpleNamespace
from distar.atomic import written_whole
from distar.audit import export
def download(store, release, folder):
    with written_whole(folder) as partial:
        partial.mkdir()
        (partial / "half.txt").write_text("half")
        print(flush=True)
        sys.stdin.read()
export.download = download
export.export_crate(SimpleNamespace(best=SimpleNamespace(statement={}), store=None, release=""), Path(sys.argv[1]))
"""
KILLED_REMOVAL = """
import os, sys
from distar.__main__ import main
def kill(event, arguments):
    if event == "os.remove" and arguments[0] == "model.safetensors":
        os._exit(9)
sys.addaudithook(kill)
main(["audit", "prune", "--delete"])
"""
RUN_IN_WORKTREE = "from distar.worktree import worktree; run = worktree('HEAD'); run.__enter__()"


@dataclass(frozen=True)
class Leftover:
    """Something stale: what `prune` calls it, what goes with it, what to touch, how another process uses it."""

    kind: str
    place: str
    gone: Sequence[Path] = ()
    newest: Path | None = None
    use: tuple[str, Path] | None = None


@contextmanager
def process(code: str, argument: Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code in another process, which then waits; it is killed at the end."""
    script = f"import sys\nfrom pathlib import Path\n{code}\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(argument)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"\n"
            yield running
        finally:
            running.kill()


def git(*arguments: str, when: float | None = None) -> str:
    dates = (
        {} if when is None else {"GIT_AUTHOR_DATE": f"@{when:.0f} +0000", "GIT_COMMITTER_DATE": f"@{when:.0f} +0000"}
    )
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **dates}
    ).stdout.strip()


def old(place: Path, text: str | None = None) -> Path:
    """Make everything there old; write a file first if a text is given."""
    if text is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for path in [place, *place.rglob("*")]:
        os.utime(path, (OLD, OLD))
    return place


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with history, in which everything is old and nothing is stale."""
    folder = tmp_path / "project"
    (tmp_path / "tmp").mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for name in ("DISTAR_WORK_DIR", "DISTAR_DOWNLOADS"):
        monkeypatch.delenv(name, raising=False)
    Path("params.yaml").write_text(PARAMS.format(url="file://published"))
    git("init", "-q", "-b", "main")
    git("add", "params.yaml")
    git("commit", "-qm", "first", when=OLD)
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/on-a-branch", head)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", git("commit-tree", "-m", "runs", f"{head}^{{tree}}", when=OLD))
    tagged = git("commit-tree", "-m", "tagged", f"{head}^{{tree}}", when=OLD)
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/tagged", tagged)
    git("tag", "kept", tagged)
    git("worktree", "add", "-q", "--detach", str(tmp_path / "mine" / "distar-worktree-1" / "project"))
    for path in (
        ".distar/prompts/set/train.txt",
        ".distar/tiny/autoencoder.done",
        f".distar/downloads/{HASH}",
        ".distar/downloads/notes.partial",
        ".distar/downloads/releases/notes.lock",
        f".distar/downloads/releases/{HASH}/metrics.json",
        f".distar/downloads/releases/{HASH}.lock",
        ".distar/train/notes/lock",
        ".distar/train/0123456789abcde0/no-lock-beside-it",
        ".notes-abcdefgh/todo.txt",
        ".venv/lib/.cache-abcdefgh/cache",
        "outputs/.reports-abcdefgh/reports/page.html",
        "outputs/.reports-abcdefgh/something-else",
        "outputs/generator/weights/model.safetensors",
        "published/blobs/sha256/1",
    ):
        old(Path(path), "kept")
    champion = {
        "release": HASH,
        "history": [{"who": "a", "when": "2026-01-31T12:00:00+00:00", "from": None, "to": HASH}],
    }
    open_store("file://published").create(alias_name("champion"), json.dumps(champion).encode())
    old(tmp_path)
    return folder


def work_directory() -> Leftover:
    folder = Path(".distar/train/0123456789abcdef")
    old(folder / "lock", "1")
    old(folder / "iteration-00000002.pt", "weights")
    old(folder)
    use = (TAKE_LOCK, folder / "lock")
    return Leftover("work directory", str(folder), [folder], folder / "iteration-00000002.pt", use)


def unfinished_output() -> Leftover:
    with process(WRITE, Path("outputs/generator")):
        pass
    (folder,) = Path("outputs").glob(".generator-*")
    old(folder)
    return Leftover("unfinished output", str(folder), [folder], folder / "generator/half.txt", (HOLD_FOLDER, folder))


def half_of_a_crate() -> Leftover:
    with process(EXPORT, Path("outputs/crate")):
        pass
    (folder,) = Path("outputs").glob(".crate-*")
    (newest,) = folder.rglob("half.txt")
    old(folder)
    return Leftover("unfinished output", str(folder), [folder], newest, (HOLD_FOLDER, folder))


def download() -> Leftover:
    partial = old(Path(f".distar/downloads/{HASH[::-1]}.partial"), "half")
    lock = old(partial.with_suffix(".lock"), "1")
    return Leftover("download", str(partial), [partial, lock], partial, (TAKE_LOCK, lock))


def lock_of_a_download() -> Leftover:
    lock = old(Path(f".distar/downloads/{HASH}.lock"), "1")
    return Leftover("download", str(lock), [lock], lock, (TAKE_LOCK, lock))


def unpinned_download() -> Leftover:
    path = old(Path(f".distar/downloads/{HASH[:32]}.unpinned"), "half")
    return Leftover("download", str(path), [path], path)


def watched_release() -> Leftover:
    folder = Path(".distar/downloads/releases") / HASH[::-1]
    lock = old(folder.with_suffix(".lock"), "1")
    memory = old(folder.with_suffix(".json"), "[]")
    weights = old(folder / "unet" / "model.safetensors", "weights")
    old(folder)
    return Leftover("download", str(folder), [lock, memory, folder], weights, (TAKE_LOCK, lock))


def lock_of_a_watched_release() -> Leftover:
    lock = old(Path(f".distar/downloads/releases/{HASH[::-1]}.lock"), "1")
    return Leftover("download", str(lock), [lock], lock, (TAKE_LOCK, lock))


def half_of_a_release() -> Leftover:
    with process(WRITE, Path(".distar/downloads/releases") / HASH):
        pass
    (folder,) = Path(".distar/downloads/releases").glob(f".{HASH}-*")
    old(folder)
    return Leftover("unfinished output", str(folder), [folder], folder / HASH / "half.txt", (HOLD_FOLDER, folder))


def worktree() -> Leftover:
    parent = Path(tempfile.gettempdir()) / "distar-worktree-abc"
    git("worktree", "add", "-q", "--detach", str(parent / "project"))
    old(parent)
    return Leftover("worktree", str(parent), [parent], parent / "project" / "params.yaml", (HOLD_FOLDER, parent))


def worktree_that_is_gone() -> Leftover:
    folder = Path(tempfile.gettempdir()) / "gone"
    git("worktree", "add", "-q", "--detach", str(folder))
    shutil.rmtree(folder)
    record = old(Path(".git/worktrees/gone"))
    return Leftover("worktree", str(folder), newest=record / "HEAD")


def experiment(when: float = OLD) -> Leftover:
    head = git("rev-parse", "HEAD")
    name = f"refs/exps/{head[:2]}/{head[2:]}/lone-some"
    git("update-ref", name, git("commit-tree", "-p", head, "-m", "experiment", f"{head}^{{tree}}", when=when))
    return Leftover("experiment", name)


RELEASES = [watched_release, lock_of_a_watched_release, half_of_a_release, half_of_a_crate]
FILES = [work_directory, unfinished_output, download, lock_of_a_download, unpinned_download, *RELEASES, worktree]
ALL: list[Callable[[], Leftover]] = [*FILES, worktree_that_is_gone, experiment]
LOCKABLE = [work_directory, unfinished_output, download, lock_of_a_download, *RELEASES, worktree]


def state(root: Path) -> set[str]:
    """Return every file with its content, every folder, every reference and every worktree."""
    paths = [path for path in root.rglob("*") if ".git" not in path.parts]
    files = {f"{path}: {path.read_bytes()!r}" if path.is_file() else str(path) for path in paths}
    return files | set(git("for-each-ref").splitlines()) | set(git("worktree", "list").splitlines())


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[dict[str, object]]:
    assert main(["audit", "prune", "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


def test_what_is_old_but_not_stale_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(workspace.parent)
    assert told(capsys, "--delete") == []
    assert state(workspace.parent) == before


@pytest.mark.parametrize("make", ALL)
def test_what_is_stale_is_shown_and_then_removed_alone(
    workspace: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Leftover]
) -> None:
    clean = state(workspace.parent)
    leftover = make()
    before = state(workspace.parent)
    assert before != clean
    (shown,) = told(capsys)
    assert (shown["kind"], shown["place"], shown["age_days"]) == (leftover.kind, leftover.place, DAYS_OLD)
    assert (shown["removed"], shown["error"]) == (False, None)
    assert state(workspace.parent) == before

    (removed,) = told(capsys, "--delete")
    assert (removed["removed"], removed["error"]) == (True, None)
    assert state(workspace.parent) == clean


@pytest.mark.parametrize("make", ALL)
def test_what_is_fresh_stays(workspace: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Leftover]) -> None:
    if make is experiment:
        experiment(when=time.time())
    else:
        newest = make().newest
        assert newest is not None
        os.utime(newest)
    before = state(workspace.parent)
    assert told(capsys, "--delete") == []
    assert state(workspace.parent) == before


@pytest.mark.parametrize("make", LOCKABLE)
def test_what_another_process_holds_stays(
    workspace: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Leftover]
) -> None:
    leftover = make()
    assert leftover.use is not None
    with process(*leftover.use):
        for path in leftover.gone:
            old(path)
        before = state(workspace.parent)
        assert told(capsys, "--delete") == []
        assert state(workspace.parent) == before
    for path in leftover.gone:
        old(path)
    assert len(told(capsys)) == 1


def test_what_a_live_writer_writes_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with process(WRITE, Path("outputs/generator")) as writer:
        (folder,) = Path("outputs").glob(".generator-*")
        old(folder)
        assert told(capsys, "--delete") == []
        assert (folder / "generator" / "half.txt").exists()
        writer.kill()
        writer.wait()
        assert len(told(capsys)) == 1


def test_the_worktree_of_a_run_stays_until_the_run_is_killed(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    git("commit", "-qm", "dvc")
    Path(".dvc/cache").mkdir()  # the run's worktree links to it
    clean = state(workspace.parent)
    with process(RUN_IN_WORKTREE, Path()) as run:
        (parent,) = Path(tempfile.gettempdir()).glob("distar-worktree-*")
        old(parent)
        assert told(capsys, "--delete") == []
        run.kill()
        run.wait()
    assert [stale["place"] for stale in told(capsys, "--delete")] == [str(parent)]
    assert state(workspace.parent) == clean


def test_a_worktree_in_which_a_process_works_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover = worktree()
    with process("", Path(), cwd=leftover.gone[0] / "project"):
        assert told(capsys, "--delete") == []
    assert len(told(capsys)) == 1


def test_what_came_into_use_since_it_was_found_stays(workspace: Path) -> None:
    leftover = work_directory()
    assert leftover.newest is not None
    (outcome,) = prune(30, delete=False)
    os.utime(leftover.newest)
    with pytest.raises(WorkDirectoryError, match="came into use meanwhile"):
        outcome.stale.remove()
    assert leftover.newest.exists()


def test_an_experiment_that_moved_since_it_was_found_stays(workspace: Path) -> None:
    name = experiment().place
    (outcome,) = prune(30, delete=False)
    git("update-ref", name, "HEAD")
    with pytest.raises(StorageError, match="git update-ref -d"):
        outcome.stale.remove()
    assert git("rev-parse", name) == git("rev-parse", "HEAD")


def test_an_error_is_told_and_the_rest_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = Path(".git") / experiment().place
    reference.with_name(f"{reference.name}.lock").touch()  # as if another git were at it
    folder = work_directory().gone[0]
    failed, removed = told(capsys, "--delete", status=1)
    assert "git update-ref -d" in str(failed["error"])
    assert not failed["removed"]
    assert reference.exists()
    assert removed["removed"]
    assert not folder.exists()


def test_a_watched_release_stays_while_the_store_does_not_tell_its_aliases(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = Path(".distar/downloads/releases")
    shutil.rmtree("published/aliases")
    (workspace / "published" / "aliases").touch()
    shown = told(capsys)
    assert [one["place"] for one in shown] == [str(releases / HASH)]
    assert str(shown[0]["why"]).startswith("an alias may point at it: published/aliases: Not a directory")
    folder = work_directory().gone[0]
    removed, failed = told(capsys, "--delete", status=1)
    assert removed["removed"]
    assert not folder.exists()
    assert str(failed["error"]).startswith("not removed: an alias may point at it")
    assert (releases / HASH / "metrics.json").exists()


@pytest.mark.parametrize("damage", [lambda: shutil.rmtree("published"), lambda: lone_attestation().touch()])
def test_an_experiment_stays_while_the_store_does_not_tell_what_was_released(
    workspace: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[], object]
) -> None:
    reference = Path(".git") / experiment().place
    damage()
    failed = told(capsys, "--delete", status=1)[0]
    assert str(failed["error"]).startswith("not removed: it may have released something")
    assert reference.exists()


def lone_attestation() -> Path:
    for folder in ("published/releases", f"published/attestations/{HASH}"):
        Path(folder).mkdir(parents=True)
    Path(f"published/releases/{HASH}.json").touch()
    return Path(f"published/attestations/{HASH}/{HASH}.intoto.json")


def test_a_release_that_is_at_hand_stays(workspace: Path) -> None:
    Path("packaged").mkdir()
    Path("packaged/README.md").write_text("A release")
    write_manifest(Path("packaged"))
    store = open_store("file://published")
    release, _ = publish(store, Path("packaged"), lambda _: None)
    place = f".distar/downloads/releases/{release}"

    def offered() -> bool:
        return place in [one.stale.place for one in prune(0, delete=False)]

    with at_hand(store, release) as folder:
        assert not offered()
        assert (folder / "README.md").read_text() == "A release"
    assert offered()
    move(store, "candidate", release, None)
    assert not offered()


def test_of_a_removal_that_is_killed_no_half_release_remains(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, folder = watched_release().gone
    result = subprocess.run([sys.executable, "-c", KILLED_REMOVAL], stdout=subprocess.DEVNULL, check=False)
    assert result.returncode == 9
    assert not Path(folder).exists()
    (workshop,) = folder.parent.glob(f".{folder.name}-*")
    assert list(workshop.rglob("model.safetensors")) != []
    old(workshop)
    assert {one["kind"] for one in told(capsys, "--delete")} == {"download", "unfinished output"}
    assert not workshop.exists()


def test_days_are_those_asked_for(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_directory()
    assert told(capsys, "--older-than", "41") == []
    assert len(told(capsys, "--older-than", "39")) == 1


def test_folders_elsewhere_are_looked_through(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, store = workspace.parent / "scratch", workspace.parent / "store"
    monkeypatch.setenv("DISTAR_WORK_DIR", str(scratch))
    monkeypatch.setenv("DISTAR_DOWNLOADS", str(scratch / "downloads"))
    old(scratch / "0123456789abcdef" / "lock", "1")
    old(scratch / "downloads" / f"{HASH}.partial", "half")
    old(store / "releases" / f".{HASH}.json-abcd_123" / f"{HASH}.json", "{")
    old(scratch)
    old(store)
    Path("params.yaml").write_text(PARAMS.format(url=f"file://{store}"))
    assert [stale["kind"] for stale in told(capsys, "--delete")] == ["unfinished output", "work directory", "download"]
    assert sorted(path for path in (*scratch.rglob("*"), *store.rglob("*"))) == [
        scratch / "downloads",
        store / "releases",
    ]


def test_a_tree_without_git_is_looked_through_too(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_directory()
    shutil.rmtree(".git")
    assert [stale["kind"] for stale in told(capsys)] == ["work directory"]


def test_the_table_says_what_to_do(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_directory()
    assert main(["audit", "prune"]) == 0
    text = capsys.readouterr().out
    assert "1 older than 30 days and unused, 8 bytes; --delete removes them." in text
    assert "40 days" in text
    assert main(["audit", "prune", "--delete"]) == 0
    assert "1 removed, 8 bytes; 0 could not be removed." in capsys.readouterr().out


def test_outside_a_project_nothing_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "prune"]) == 1
    assert "run from the project's top folder" in capsys.readouterr().err
