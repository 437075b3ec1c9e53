"""A release that several want on this machine at once: downloaded once, and whole when they get it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from rich.console import Console

from distar.errors import ReleaseError
from distar.hashing import sha256_of
from distar.release.local import LocalStore
from distar.release.package import write_manifest
from distar.release.releases import Problem, publish
from distar.release.storage import Store, blob_name, open_store
from distar.releasing import Verified, at_hand, verified_table

WEIGHTS = b"weights" * 100_000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTAR_DOWNLOADS", raising=False)
    return open_store("file://published")


@pytest.fixture
def release(store: Store) -> str:
    folder = Path("packaged")
    folder.mkdir()
    (folder / "weights").write_bytes(WEIGHTS)
    (folder / "README.md").write_text("A release")
    write_manifest(folder)
    return publish(store, folder, lambda _: None)[0]


def seen(store: Store, release: str) -> tuple[int, bytes]:
    """Return which folder it is, and what is in it."""
    with at_hand(store, release) as folder:
        return folder.stat().st_ino, (folder / "weights").read_bytes()


class Halting(LocalStore):
    """A store that tells when it is asked for a blob, and gives it when it is told to."""

    asked, may_go_on = Event(), Event()

    @contextmanager
    def open_blob(self, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        self.asked.set()
        assert self.may_go_on.wait(60)
        with super().open_blob(sha256, start) as chunks:
            yield chunks


def test_who_comes_during_the_download_waits_for_it(
    store: Store, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    halting, waits, sleep = Halting(store.url, Path("published")), Event(), time.sleep

    def sleep_and_tell(seconds: float) -> None:
        waits.set()
        sleep(seconds)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(seen, halting, release)
        assert halting.asked.wait(60)
        monkeypatch.setattr(time, "sleep", sleep_and_tell)
        second = pool.submit(seen, store, release)
        waited = waits.wait(60)
        there = Path(".distar/downloads/releases", release).exists()
        halting.may_go_on.set()
    assert waited
    assert not there
    assert first.result() == second.result()
    assert first.result()[1] == WEIGHTS


def test_what_is_there_is_not_downloaded_again(store: Store, release: str) -> None:
    first = seen(store, release)
    Path("published").rename("away")
    assert seen(store, release) == first


def test_a_download_that_failed_is_begun_anew(store: Store, release: str) -> None:
    blob = Path("published") / blob_name(sha256_of(Path("packaged/weights")))
    blob.rename("weights")
    with pytest.raises(ReleaseError, match="weights of release"):
        seen(store, release)
    Path("weights").rename(blob)
    assert seen(store, release)[1] == WEIGHTS


def test_of_many_problems_some_are_shown_and_all_are_counted() -> None:
    problems = [Problem(f"file-{number}", "missing", "0" * 64, None) for number in range(25_000)]
    console = Console(width=100, file=io.StringIO())
    began = time.monotonic()
    console.print(verified_table(Verified("1" * 64, problems, {})))
    assert time.monotonic() - began < 5
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "25000 problems" in text
    assert "… and 24800 more; --json has all" in text
    assert "file-199 " in text
    assert "file-200 " not in text
