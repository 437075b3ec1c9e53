"""A store or a source in a folder that anybody can write to: nothing that is put there hangs us or passes for ours."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.errors import DistarError, ModelFileError, ReleaseError, StorageError
from distar.fetching import fetch, fill_mirror, lock_sources
from distar.hashing import pin_file
from distar.model_files import ModelFiles
from distar.release.package import write_manifest
from distar.release.releases import history, move, publish, read_aliases, release_ids, verify
from distar.release.storage import MAX_DOCUMENT, can_be_ours, open_store

ID = hashlib.sha256(b"").hexdigest()


def a_socket(path: Path) -> None:
    """Bind a socket; its name may be longer than the system's limit, so it is made where it is short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def no_permission(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_DOCUMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is no file, but a folder, a pipe"),
    "folder": (Path.mkdir, "is no file, but a folder, a pipe"),
    "device": (device, "is no file"),
    "socket": (a_socket, "is no file"),
    "circle": (lambda path: path.symlink_to(path.name), "is no file"),
    "link to a folder": (lambda path: path.symlink_to("/"), "is no file"),
    "link that leads nowhere": (lambda path: path.symlink_to("nowhere"), "is no file"),
    "huge": (sparse, f"has more than {MAX_DOCUMENT} bytes"),
}


@pytest.mark.parametrize(("make", "expected"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
@pytest.mark.parametrize("name", [f"releases/{ID}.json", "aliases/latest.json", f"blobs/sha256/{ID}"])
def test_what_is_no_file_is_told(make: Callable[[Path], object], expected: str, name: str, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    (tmp_path / name).parent.mkdir(parents=True)
    make(tmp_path / name)
    if name.startswith("blobs/"):
        assert not store.has_blob({"sha256": ID, "bytes": 0})
        if make is not sparse:
            with pytest.raises(ReleaseError, match=expected), store.open_blob(ID):
                pass
        return
    for ask in (
        lambda: store.read(name),
        lambda: store.create(name, b"{}"),
        lambda: store.replace(name, b"{}", "version"),
    ):
        with pytest.raises(ReleaseError, match=expected):
            ask()
    assert store.names("blobs/") == []
    assert store.names("") == [name]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/"), lambda path: path.symlink_to("none")])
def test_an_alias_that_is_no_file_is_a_problem(make: Callable[[Path], object], tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    (tmp_path / "aliases").mkdir()
    make(tmp_path / "aliases" / "latest.json")
    sound, problems = read_aliases(store)
    assert (sound, [*problems]) == ({}, ["latest"])
    with pytest.raises(ReleaseError, match=r"latest\.json is no file"):
        store.create("aliases/latest.json", b"{}")


def published(folder: Path, content: bytes = b"content") -> str:
    """Publish a release of two files to the store in a folder, and return its id."""
    packaged = folder.with_name(f"packaged-{hashlib.sha256(content).hexdigest()[:8]}")
    packaged.mkdir()
    (packaged / "a").write_bytes(content)
    (packaged / "b").write_bytes(content * 2)
    write_manifest(packaged)
    return publish(open_store(f"file://{folder}"), packaged, lambda _: None)[0]


def moved(*entries: tuple[str | None, str, str]) -> bytes:
    """Write an alias by its moves: from where, to where, when."""
    history = [{"who": "ada", "when": when, "from": start, "to": end} for start, end, when in entries]
    return json.dumps({"release": history[-1]["to"], "history": history}).encode()


def test_what_an_alias_says_that_cannot_be_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "store"
    one, two = published(folder), published(folder, b"other")
    store, early, late = open_store(f"file://{folder}"), "2026-01-01T00:00:00+00:00", "2026-01-01T00:10:00+00:00"
    aliases = {
        "sound": (moved((None, one, late), (one, two, early)), ""),  # clocks of two machines
        "lost": (moved((None, ID, early)), "which is not in the store"),
        "back": (moved((None, one, "2026-01-02T00:00:00+00:00"), (one, two, early)), "before the move before it"),
        "ahead": (moved((None, one, "2999-01-01T00:00:00+00:00")), "in the future"),
        "first": (moved((None, one, "0001-01-01T00:00:00+14:00")), "expected a time with its zone"),
        "self": (moved((None, one, early), (one, one, late)), "ends where it begins"),
    }
    for name, (content, _) in aliases.items():
        assert store.create(f"aliases/{name}.json", content)
    sound, problems = read_aliases(store)
    assert [*sound] == ["sound"]
    for name, (_, expected) in aliases.items():
        assert expected in problems.get(name, "")
    url = ["--store", f"file://{folder}"]
    assert main(["release", "list", "--json", *url]) == 0
    told = capsys.readouterr()
    assert {listed["release"] for listed in json.loads(told.out)} == {one, two}
    for name in problems:
        assert f"alias {name} cannot be followed" in told.err
    assert main(["release", "verify", one, *url]) == 1
    assert capsys.readouterr().out.count("cannot be followed") == len(problems)
    for name in problems:
        assert main(["release", "history", name, "--json", *url]) == 1
        told = capsys.readouterr()
        assert problems[name].split(": ")[-1] in told.err
        assert bool(told.out) == (name == "lost")  # its history says where to go back to
    assert main(["release", "history", "sound", *url]) == 0
    assert main(["release", "promote", one, "lost", *url]) == 0
    assert [*read_aliases(store)[0]] == ["lost", "sound"]


def test_a_move_is_never_before_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    one, two = published(folder), published(folder, b"other")
    store, ahead = open_store(f"file://{folder}"), (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    store.create("aliases/latest.json", moved((None, one, ahead)))
    move(store, "latest", two, one)
    move(store, "latest", two, two)
    assert [datetime.fromisoformat(one.when) for one in history(store, "latest")] == [datetime.fromisoformat(ahead)] * 2


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_blob_that_is_no_file_hides_no_other(make: Callable[[Path], object], tmp_path: Path) -> None:
    release = published(tmp_path / "store")
    blobs = sorted((tmp_path / "store" / "blobs" / "sha256").iterdir())
    blobs[0].unlink()
    make(blobs[0])
    blobs[1].write_bytes(b"damaged")
    problems = verify(open_store(f"file://{tmp_path / 'store'}"), release)
    assert [one.problem == "unreadable" for one in problems].count(True) == 1
    assert len(problems) == 2


def test_a_folder_that_is_not_there_is_no_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--store", f"file://{tmp_path / 'none'}"]
    for command in (["release", "list"], ["release", "history", "a"], ["release", "verify", ID], ["audit", "show", ID]):
        assert main([*command, *url]) == 1
        assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["release", "list", *url]) == 0
    assert "there is no release yet" in capsys.readouterr().out


def test_the_commands_end_at_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "aliases").mkdir()
    os.mkfifo(tmp_path / "aliases" / "latest.json")
    for command in (["history", "latest"], ["download", "latest", "--out", "out"], ["verify", "latest"]):
        done = subprocess.run(
            [sys.executable, "-m", "distar", "release", *command, "--store", f"file://{tmp_path}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "latest.json is no file" in done.stderr
        assert "Traceback" not in done.stderr


def test_only_names_that_can_be_ours_are_listed(tmp_path: Path) -> None:
    ours = [f"releases/{ID}.json", "aliases/v1.2_x-y.json", f"attestations/{ID}/a.intoto.json", f"blobs/sha256/{ID}"]
    foreign = [
        b"releases/README.md",
        b"releases/a\nb.json",
        b"releases/\xff\xfe.json",
        b"aliases/[/red].json",
        b"aliases/\x1b[31m.json",
        b"aliases/0123456789abcdef.json",
        b"attestations/short/a.json",
        b"attestations/.DS_Store",
        b"aliases/.hidden/latest.json",
        b"aliases/deep/latest.json",
        b"notes.txt",
        b".lock",
    ]
    for name in [*map(os.fsencode, ours), *foreign]:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    (tmp_path / "aliases" / "circle").symlink_to(tmp_path / "aliases")
    store = open_store(f"file://{tmp_path}")
    assert store.names("") == sorted(ours)
    assert release_ids(store) == [ID]


@pytest.mark.parametrize(
    "name", ["", "releases/", f"releases/{ID}.json\n", f"/releases/{ID}.json", f"releases/../releases/{ID}.json"]
)
def test_names_are_ours_to_the_last_character(name: str) -> None:
    assert not can_be_ours(name)


def test_a_store_that_cannot_be_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    places = [
        tmp_path / "file",
        tmp_path / "file" / "below",
        tmp_path / "circle",
        tmp_path / "pipe",
        "a" * 5000,
        "a\0b",
    ]
    for place in places:
        assert main(["release", "list", "--store", f"file://{place}"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        for write in (lambda store: store.create("aliases/a.json", b"{}"), lambda store: store.read("aliases/a.json")):
            with pytest.raises(DistarError):
                write(open_store(f"file://{place}"))


def test_a_lock_that_is_none_is_told(tmp_path: Path) -> None:
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)):
        make(tmp_path / ".lock")
        with pytest.raises(StorageError, match=r"\.lock: .+; check the store's folder"):
            open_store(f"file://{tmp_path}").create("aliases/a.json", b"{}")
        (tmp_path / ".lock").rmdir() if (tmp_path / ".lock").is_dir() else (tmp_path / ".lock").unlink()


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    """As another user, for the administrator may read everything."""
    if os.getuid() != 0:
        pytest.skip("only the administrator can become another user")
    store = tmp_path / "store"
    for name in (f"releases/{ID}.json", "aliases/latest.json"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        no_permission(store / name)
    store.chmod(0o755)
    told = as_nobody(tmp_path, f"open_store('file://{store}').read('aliases/latest.json')")
    assert "latest.json: Permission denied; check the store's folder" in told
    blob = store / "blobs" / "sha256" / ID
    blob.parent.mkdir(parents=True)
    no_permission(blob)
    told = as_nobody(tmp_path, f"open_store('file://{store}').open_blob('{ID}').__enter__()")
    assert f"ReleaseError {blob}: Permission denied" in told
    (store / "releases").chmod(0)
    told = as_nobody(tmp_path, f"open_store('file://{store}').names('releases/')")
    assert "releases: Permission denied" in told


def as_nobody(folder: Path, ask: str) -> str:
    """Ask something of a store as a user who may do nothing, and return the error."""
    for place in [folder, *folder.parents]:
        if place.stat().st_uid == os.getuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o755)
    code = (
        "import os, sys\n"
        "from distar.errors import DistarError\n"
        "from distar.fetching import lock_sources\n"
        "from distar.model_files import ModelFiles\n"
        "from distar.release.storage import open_store\n"
        "from distar.release import local\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"try: {ask}\n"
        "except DistarError as error: print(type(error).__name__, error)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


# Sources and mirrors


def test_a_source_in_a_folder_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    os.mkfifo(tmp_path / "models" / "pipe.json")
    (tmp_path / "models" / "circle.json").symlink_to("circle.json")
    (tmp_path / "models" / "a.json").write_text("{}")
    pins = lock_sources([ModelFiles("file://models", ("*.json",))], {}, update=False)
    assert list(pins["file://models"]) == ["a.json"]
    for source in ("file://models/pipe.json", "file://" + "a" * 5000, "file://a\0b", "file://models/a.json/below"):
        with pytest.raises(DistarError):
            lock_sources([ModelFiles(source)], {}, update=False)
    (tmp_path / "models" / "a\nb.json").write_text("{}")
    with pytest.raises(ModelFileError, match="cannot be a file's name"):
        lock_sources([ModelFiles("file://models", ("*.json",))], {}, update=False)


def test_a_mirror_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    pins = lock_sources([ModelFiles("file://a.json")], {}, update=False)
    (tmp_path / "mirror").write_text("no folder")
    for mirror in ("file://mirror", "file://" + "a" * 5000, "file://a\0b"):
        with pytest.raises(DistarError):
            fill_mirror(pins, mirror)
    assert fill_mirror(pins, "file://other") == 1
    assert (tmp_path / "other" / "sha256" / str(pins["file://a.json"]["a.json"]["sha256"])).read_text() == "{}"


def test_a_folder_for_downloads_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "downloads").write_text("no folder")
    monkeypatch.setenv("DISTAR_DOWNLOADS", "downloads")
    pins = {"s3://bucket/models": {"a.json": pin_file(tmp_path / "a.json")}}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="let DISTAR_DOWNLOADS name a folder"):
        fetch(ModelFiles("s3://bucket/models"), pins, tmp_path / "fetched")
    shutil.rmtree(tmp_path / "fetched", ignore_errors=True)
