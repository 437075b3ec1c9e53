"""Stores: one set of tests for a folder and for a real S3 server; races, kills at every step, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.errors import ReleaseError, StorageError
from distar.fetching.parallel import Work, in_parallel
from distar.hashing import pin_file, pin_folder
from distar.release.package import write_manifest
from distar.release.releases import (
    Move,
    download,
    find,
    history,
    move,
    point,
    publish,
    read_alias,
    read_release,
    release_ids,
    verify,
)
from distar.release.s3 import PART_SIZE
from distar.release.storage import Store, blob_name, open_store
from tests.integration.conftest import S3Server, client_of
from tests.integration.faulty import Fault, Faulty, faulty_before
from tests.integration.publishing import (
    Task,
    attach,
    killed_at,
    move_it,
    point_it,
    publish_it,
    publish_on_a_full_disk,
    started,
    together,
)
from tests.miniature import edit

WEIGHTS = "unet/weights.safetensors"
FILES = {
    WEIGHTS: random.Random(0).randbytes(PART_SIZE + 1_000_000),  # in two parts
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"# A release",
    "copy/README.md": b"# A release",
    "empty.txt": b"",
}
PACKAGED = {**FILES, "params.yaml": b"profile: mini\nseed: 0\n", "card.json": b"{}"}  # what provenance is made of
NUM_BLOBS = len(set(FILES.values()))


def make_release(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_release(tmp_path / "release", FILES)


@pytest.fixture(scope="session")
def shared_bucket(s3_server: S3Server) -> str:
    """Make a bucket in which tests have folders: the server takes a second for each new one."""
    client_of(s3_server).create_bucket(Bucket="stores")
    return "stores"


@pytest.fixture
def s3_url(s3: S3Server, shared_bucket: str, tmp_path: Path) -> str:
    return f"s3://{shared_bucket}/{tmp_path.name}/releases"


@pytest.fixture(params=["folder", "S3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/store" if request.param == "folder" else request.getfixturevalue("s3_url")


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


def publish_to(store: Store, folder: Path) -> tuple[str, str]:
    return publish(store, folder, lambda release_id: attach(store, release_id))


def publish_small(store: Store, tmp_path: Path, *names: str) -> list[str]:
    return [publish_to(store, make_release(tmp_path / name, {"name.txt": name.encode()}))[0] for name in names]


def server_of_environment() -> S3Server:
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return S3Server(*(os.environ[name] for name in names))


def overwrite(url: str, name: str, content: bytes | None, **about: object) -> None:
    """Change what is stored behind the store's back."""
    where, _, path = url.partition("://")
    if where == "file":
        stored = Path(path) / name
        stored.parent.mkdir(exist_ok=True)
        stored.unlink() if content is None else stored.write_bytes(content)
        return
    bucket, _, prefix = path.partition("/")
    client, place = client_of(server_of_environment()), {"Bucket": bucket, "Key": f"{prefix}/{name}"}
    client.delete_object(**place) if content is None else client.put_object(**place, Body=content, **about)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def task(url: str, folder: Path = Path(), release: str = "", expected: str | None = None) -> Task:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return Task(url, environment, folder, release, expected)


# Publishing, finding, downloading, verifying


def test_what_was_published_comes_back_byte_for_byte(store: Store, folder: Path, tmp_path: Path) -> None:
    release_id, outcome = publish_to(store, folder)
    assert (release_id, outcome) == (hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest(), "created")
    assert read_release(store, release_id) == {name: pin_file(folder / name) for name in FILES}
    assert verify(store, release_id) == []
    download(store, release_id, tmp_path / "downloaded")
    assert contents(tmp_path / "downloaded") == contents(folder)


def test_a_store_holds_what_its_layout_says(store: Store, folder: Path) -> None:
    release_id, _ = publish_to(store, folder)
    point(store, "latest", release_id)
    hashes = sorted({hashlib.sha256(content).hexdigest() for content in FILES.values()})
    assert store.names("") == sorted(
        [
            *(f"blobs/sha256/{sha256}" for sha256 in hashes),
            f"attestations/{release_id}/note.json",
            f"releases/{release_id}.json",
            "aliases/latest.json",
        ]
    )
    assert store.names("blobs/sha256/" + hashes[0][:5]) == [f"blobs/sha256/{hashes[0]}"]
    document = store.read("aliases/latest.json")
    assert document is not None
    data = json.loads(document.content)
    assert data["release"] == release_id
    assert [set(entry) for entry in data["history"]] == [{"who", "when", "from", "to"}]


def test_publishing_again_changes_nothing(store: Store, folder: Path) -> None:
    release_id, _ = publish_to(store, folder)
    before = {name: store.read(name) for name in store.names("")}
    assert publish_to(store, folder) == (release_id, "identical")
    assert {name: store.read(name) for name in store.names("")} == before


def test_releases_share_their_files(store: Store, folder: Path) -> None:
    publish_to(store, folder)
    (folder / "README.md").write_bytes(b"# Another release")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    assert publish_to(store, folder)[1] == "created"
    assert len(store.names("blobs/")) == NUM_BLOBS + 1
    assert len(release_ids(store)) == 2


def test_a_release_is_found_by_id_digits_and_alias(store: Store, tmp_path: Path) -> None:
    one, other = publish_small(store, tmp_path, "one", "other")
    point(store, "latest", other)
    assert [find(store, text) for text in (one, one[:8], "latest")] == [one, one, other]
    for text in ("0" * 64, "0" * 12, "none"):
        with pytest.raises(ReleaseError, match=f"there is no .*{text}.*2 releases .* 1 aliases: latest"):
            find(store, text)
    with pytest.raises(ReleaseError, match="cannot be an alias"):
        find(store, "../latest")
    overwrite(store.url, f"releases/{one[:8]}{'0' * 56}.json", b"{}")
    with pytest.raises(ReleaseError, match=f"{one[:8]} may be any of .*{one}.*give more digits"):
        find(store, one[:8])


def test_an_empty_store_says_so(store: Store) -> None:
    assert release_ids(store) == []
    with pytest.raises(ReleaseError, match="there is no alias 'latest'; it holds 0 releases"):
        find(store, "latest")


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_verify_finds_a_flipped_byte_a_cut_file_and_a_removed_one(store: Store, folder: Path, tmp_path: Path) -> None:
    release_id, _ = publish_to(store, folder)
    pins = read_release(store, release_id)
    overwrite(store.url, blob_name(pins[WEIGHTS]["sha256"]), flipped(FILES[WEIGHTS]))
    overwrite(store.url, blob_name(pins["model_index.json"]["sha256"]), FILES["model_index.json"][:-1])
    overwrite(store.url, blob_name(pins["README.md"]["sha256"]), None)
    found = {problem.what: (problem.problem, problem.expected, problem.got) for problem in verify(store, release_id)}
    assert found == {
        WEIGHTS: ("content", pins[WEIGHTS]["sha256"], hashlib.sha256(flipped(FILES[WEIGHTS])).hexdigest()),
        "model_index.json": ("size", "42 bytes", "41 bytes"),
        "README.md, copy/README.md": ("missing", pins["README.md"]["sha256"], None),
    }
    with pytest.raises(ReleaseError, match=r"of release .*(content|size|missing)"):
        download(store, release_id, tmp_path / "downloaded")
    assert [path.name for path in tmp_path.iterdir() if "downloaded" in path.name] == []


def test_verify_finds_a_swapped_manifest(store: Store, tmp_path: Path) -> None:
    one, other = publish_small(store, tmp_path, "one", "other")
    document = store.read(f"releases/{other}.json")
    assert document is not None
    overwrite(store.url, f"releases/{one}.json", document.content)
    (problem,) = verify(store, one)
    assert (problem.what, problem.problem, problem.expected, problem.got) == (
        f"releases/{one}.json",
        "content",
        one,
        other,
    )
    for action in (
        lambda: read_release(store, one),
        lambda: download(store, one, tmp_path / "downloaded"),
        lambda: point(store, "latest", one),
        lambda: publish_to(store, tmp_path / "one"),
    ):
        with pytest.raises(ReleaseError, match=rf"releases/{one}\.json is damaged"):
            action()


@pytest.mark.parametrize("path", ["../outside.txt", "/outside.txt", "a/../../b", "a//b", "manifest.json", ""])
def test_a_manifest_that_leads_elsewhere_is_refused(store: Store, path: str, tmp_path: Path) -> None:
    content = json.dumps({"files": {path: {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}}}).encode()
    release_id = hashlib.sha256(content).hexdigest()
    store.create(f"releases/{release_id}.json", content)
    with pytest.raises(ReleaseError, match="is not a manifest"):
        download(store, release_id, tmp_path / "downloaded")


CHANGES: dict[str, Callable[[Path], object]] = {
    "large": lambda folder: (folder / WEIGHTS).write_bytes(flipped(FILES[WEIGHTS])),
    "longer": lambda folder: (folder / WEIGHTS).write_bytes(FILES[WEIGHTS] + b"1"),
    "small": lambda folder: (folder / "README.md").write_bytes(b"# A Release"),
    "copy": lambda folder: (folder / "copy" / "README.md").write_bytes(b"# A Release"),
    "gone": lambda folder: (folder / "README.md").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("before", ["nothing", "the release"])
def test_a_file_that_was_changed_since_it_was_packaged_is_refused(
    store: Store, folder: Path, change: Callable[[Path], object], before: str
) -> None:
    """Also where the store has the right content already: the folder is not what its manifest says."""
    if before == "the release":
        publish_to(store, folder)
    names = store.names("")
    change(folder)
    with pytest.raises(ReleaseError, match=r"was changed after it was packaged|does not exist"):
        publish_to(store, folder)
    pins = json.loads((folder / "manifest.json").read_text())["files"]
    added = set(store.names("")) - set(names)
    assert added <= {blob_name(pin["sha256"]) for pin in pins.values()}
    for name in added:  # what stands under a hash is whole
        with store.open_blob(name.rpartition("/")[2]) as chunks:
            assert f"blobs/sha256/{hashlib.sha256(b''.join(chunks)).hexdigest()}" == name


def test_a_folder_without_manifest_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"manifest\.json does not exist; run `dvc repro package`"):
        publish_to(store, tmp_path)


def test_a_folder_that_exists_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    (release_id,) = publish_small(store, tmp_path, "one")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ReleaseError, match="mine exists; remove it, or name another folder"):
        download(store, release_id, tmp_path / "mine")
    with pytest.raises(StorageError, match=r"name\.txt: File exists; name a folder that can be made"):
        download(store, release_id, tmp_path / "one" / "name.txt" / "folder")


def test_what_is_said_about_a_release_stands_before_the_release_is_seen(store: Store, folder: Path) -> None:
    def refuse(release_id: str) -> None:
        assert len(store.names("blobs/")) == NUM_BLOBS
        assert release_ids(store) == []
        raise ReleaseError(f"no key for {release_id}")

    with pytest.raises(ReleaseError, match="no key for"):
        publish(store, folder, refuse)
    assert release_ids(store) == []
    assert publish_to(store, folder)[1] == "created"


# Aliases


def test_an_alias_moves_only_from_where_it_is_thought_to_be(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = publish_small(store, tmp_path, "one", "two", "three")
    monkeypatch.setenv("DISTAR_ACTOR", "ada@engine")
    move(store, "production", one, None)
    move(store, "production", two, one)
    for expected in (one, None):
        with pytest.raises(ReleaseError, match=rf"points at {two} \(ada@engine moved it, 20.*\), and not at"):
            move(store, "production", three, expected)
    with pytest.raises(ReleaseError, match="staging does not exist, and not at"):
        move(store, "staging", one, two)
    with pytest.raises(ReleaseError, match="there is no release 0000"):
        move(store, "production", "0" * 64, two)
    moves = history(store, "production")
    assert [(entry.who, entry.from_release, entry.to_release) for entry in moves] == [
        ("ada@engine", None, one),
        ("ada@engine", one, two),
    ]
    assert moves[0].when < moves[1].when
    assert read_alias(store, "production").release == two


def test_pointing_where_an_alias_points_already_is_no_move(store: Store, tmp_path: Path) -> None:
    (one,) = publish_small(store, tmp_path, "one")
    point(store, "latest", one)
    point(store, "latest", one)
    assert len(history(store, "latest")) == 1


def test_a_damaged_alias_is_told(store: Store, tmp_path: Path) -> None:
    (one,) = publish_small(store, tmp_path, "one")
    overwrite(store.url, "aliases/latest.json", b"deadbeef\n")
    with pytest.raises(ReleaseError, match=r"aliases/latest\.json.*the alias is damaged.*remove it"):
        point(store, "latest", one)


def test_documents_change_under_their_condition_alone(store: Store) -> None:
    assert store.read("aliases/a.json") is None
    assert not store.replace("aliases/a.json", b"1", "version")
    assert store.create("aliases/a.json", b"1")
    assert not store.create("aliases/a.json", b"2")
    first = store.read("aliases/a.json")
    assert first is not None
    assert store.replace("aliases/a.json", b"2", first.version)
    assert not store.replace("aliases/a.json", b"3", first.version)
    second = store.read("aliases/a.json")
    assert second is not None
    assert second.content == b"2"


# Many at once


def test_of_eight_publishers_of_one_release_one_creates_it(store: Store, folder: Path) -> None:
    outcomes = together(publish_it, [task(store.url, folder)] * 8)
    assert sorted(outcomes) == ["created", *["identical"] * 7]
    (release_id,) = release_ids(store)
    assert verify(store, release_id) == []
    assert len(store.names("blobs/")) == NUM_BLOBS


def test_eight_publishers_of_different_releases_do_not_meet(store: Store, tmp_path: Path) -> None:
    folders = [make_release(tmp_path / str(i), {**FILES, "name.txt": str(i).encode()}) for i in range(8)]
    assert together(publish_it, [task(store.url, folder) for folder in folders]) == ["created"] * 8
    assert len(release_ids(store)) == 8
    assert [verify(store, release_id) for release_id in release_ids(store)] == [[]] * 8
    assert len(store.names("blobs/")) == NUM_BLOBS + 8


def is_a_chain(moves: list[Move]) -> bool:
    return [move.from_release for move in moves] == [None, *(move.to_release for move in moves[:-1])]


def test_of_eight_promoters_one_wins_and_the_others_are_told(store: Store, tmp_path: Path) -> None:
    first, *others = publish_small(store, tmp_path, *map(str, range(9)))
    move(store, "production", first, None)
    told = together(move_it, [task(store.url, release=other, expected=first) for other in others])
    assert told.count("moved") == 1
    winner = others[told.index("moved")]
    assert all(f"points at {winner}" in text and "moved it" in text for text in told if text != "moved")
    moves = history(store, "production")
    assert [move.to_release for move in moves] == [first, winner]
    assert is_a_chain(moves)


def test_eight_that_point_an_alias_all_stand_in_its_history(store: Store, tmp_path: Path) -> None:
    releases = publish_small(store, tmp_path, *map(str, range(8)))
    together(point_it, [task(store.url, release=release) for release in releases])
    moves = history(store, "latest")
    assert sorted(move.to_release for move in moves) == sorted(releases)
    assert is_a_chain(moves)
    assert read_alias(store, "latest").release == moves[-1].to_release


# Killed


def test_killed_at_every_step_a_publisher_leaves_nothing_broken(url: str, tmp_path: Path) -> None:
    """No release is ever seen whose verification fails, and the next publisher completes the work."""
    weights = FILES[WEIGHTS] if url.startswith("s3://") else b"no parts"
    folder = make_release(tmp_path / "release", {WEIGHTS: weights, "README.md": b"# A release"})
    n = 0
    alive = True
    while alive:
        n += 1
        place = f"{url}/{n}"
        store = open_store(place)
        alive = killed_at(n, task(place, folder))
        for release_id in release_ids(store):
            assert verify(store, release_id) == []
            assert store.names(f"attestations/{release_id}/") != []
        release_id, _ = publish_to(store, folder)
        point(store, "latest", release_id)
        assert verify(store, release_id) == []
        assert is_a_chain(history(store, "latest"))
        if url.startswith("file://"):
            shutil.rmtree(place.removeprefix("file://"))
    assert n > 12  # as many steps there are at least


# What goes wrong with S3


@pytest.fixture
def faulty(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Stand a server that does what is wrong before the real one."""
    with faulty_before(s3.url) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        yield faulty


SLOW_DOWN = Fault("PUT", "/blobs/", "answer", 2, 503, "SlowDown")
LASTING = {
    "clock skew": (
        Fault("GET", "/releases/", "answer", 1, 403, "RequestTimeTooSkewed"),
        "clock differs .* set the clock",
    ),
    "throttling": (SLOW_DOWN._replace(times=99), r"too busy \(SlowDown, tried 3 times\); .*AWS_MAX_ATTEMPTS"),
    "unavailable": (Fault("GET", "/releases/", "answer", 99, 503), r"too busy \(503, tried 3 times\)"),
    "no space": (Fault("PUT", "/blobs/", "answer", 99, 507), r"no space left \(507.*\); free some"),
    "no space, by some name": (
        Fault("PUT", "/blobs/", "answer", 9, 507, "DiskFull"),
        r"no space left \(DiskFull: because",
    ),
    "failing": (
        Fault("PUT", "/blobs/", "answer", 99, 500, "InternalError"),
        "fails .*because, tried 3 times.* its log",
    ),
    "forbidden": (Fault("PUT", "/releases/", "answer", 1, 403, "AccessDenied"), r"may not do this .*docs/releases\.md"),
    "forbidden to look": (Fault("HEAD", "/blobs/", "answer", 1, 403), r"may not do this \(403\)"),
    "anything else": (Fault("POST", "uploads", "answer", 1, 418, "Teapot"), "the store answers Teapot: because"),
}


@pytest.mark.parametrize(("fault", "told"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_told_and_leaves_nothing_visible(
    fault: Fault, told: str, faulty: Faulty, s3_url: str, folder: Path
) -> None:
    store = open_store(s3_url)
    faulty.faults = [fault]
    with pytest.raises(StorageError, match=told):
        publish_to(store, folder)
    faulty.faults = []
    assert release_ids(store) == []
    assert unfinished_uploads(s3_url) == []
    assert publish_to(store, folder)[1] == "created"


def unfinished_uploads(url: str) -> list[str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    uploads = client_of(server_of_environment()).list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in uploads.get("Uploads", [])]


def test_throttling_that_ends_is_waited_out(faulty: Faulty, s3_url: str, folder: Path) -> None:
    store = open_store(s3_url)
    faulty.faults = [SLOW_DOWN]
    release_id, outcome = publish_to(store, folder)
    assert (outcome, faulty.faults[0].times) == ("created", 0)
    assert verify(store, release_id) == []


def test_who_may_not_and_what_is_not_there_is_told(s3_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(url: str, match: str, endpoint_url: str | None = None) -> None:
        with pytest.raises(StorageError, match=match):
            publish_to(open_store(url, endpoint_url), folder)

    told("s3://there-is-none/releases", "s3://there-is-none/releases/.*: there is no such bucket; check its name")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    told(s3_url, r"http://127\.0\.0\.1:9 cannot be reached .*publish\.endpoint_url", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    told(s3_url, r"refuses the credentials \(SignatureDoesNotMatch\); set AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    told(s3_url, r"refuses the credentials \(InvalidAccessKeyId\)")


def test_a_move_whose_answer_is_lost_is_known_to_be_ones_own(faulty: Faulty, s3_url: str, tmp_path: Path) -> None:
    """The client repeats the request, and is refused because of its own first one."""
    store = open_store(s3_url)
    one, two = publish_small(store, tmp_path, "one", "two")
    faulty.faults = [Fault("PUT", "/aliases/", "lose", 1)]
    move(store, "production", one, None)
    faulty.faults = [Fault("PUT", "/aliases/", "lose", 1)]
    move(store, "production", two, one)
    assert [move.to_release for move in history(store, "production")] == [one, two]


def test_conditions_that_amazon_answers_otherwise_are_understood(faulty: Faulty, s3_url: str, folder: Path) -> None:
    """A write that meets another one in flight is to be repeated; a version of what is gone is told as missing."""
    store = open_store(s3_url)
    faulty.faults = [Fault("PUT", "/aliases/", "answer", 1, 409, "ConditionalRequestConflict")]
    assert store.create("aliases/a.json", b"1")
    assert faulty.faults[0].times == 0
    faulty.faults = [Fault("PUT", "/aliases/", "answer", 1, 404, "NoSuchKey")]
    assert not store.replace("aliases/gone.json", b"1", "version")
    conflict = Fault("PUT", "/blobs/", "answer", 1, 409, "ConditionalRequestConflict")
    faulty.faults = [conflict, conflict._replace(method="POST", part="uploadId")]
    assert publish_to(store, folder)[1] == "created"
    assert [fault.times for fault in faulty.faults] == [0, 0]
    assert unfinished_uploads(s3_url) == []


def test_an_upload_whose_answer_is_lost_ends_well(faulty: Faulty, s3_url: str, folder: Path) -> None:
    store = open_store(s3_url)
    faulty.faults = [Fault("PUT", "/blobs/", "lose", 2), Fault("POST", "uploadId", "lose", 1)]
    release_id, _ = publish_to(store, folder)
    assert [fault.times for fault in faulty.faults] == [0, 0]
    assert verify(store, release_id) == []


def test_a_broken_download_goes_on_where_it_broke(
    faulty: Faulty, s3_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distar.fetching.downloads.SECONDS_BETWEEN_TRIES", (0.01,) * 3)
    store = open_store(s3_url)
    release_id, _ = publish_to(store, folder)
    sha256 = str(read_release(store, release_id)[WEIGHTS]["sha256"])
    faulty.requests.clear()
    faulty.faults = [Fault("GET", sha256, "cut", 1)]
    download(store, release_id, tmp_path / "downloaded")
    assert contents(tmp_path / "downloaded") == contents(folder)
    first, second = [span for method, address, span in faulty.requests if method == "GET" and sha256 in address]
    assert first is None
    assert 0 < int(str(second).removeprefix("bytes=").removesuffix("-")) <= len(FILES[WEIGHTS]) / 2
    faulty.faults = [Fault("GET", sha256, "cut", 1)]
    assert verify(store, release_id) == []


def test_ctrl_c_leaves_no_unfinished_upload(faulty: Faulty, s3_url: str, folder: Path) -> None:
    faulty.faults = [Fault("PUT", "partNumber=2", "hold", 1)]
    process = started(publish_it, task(s3_url, folder))
    assert faulty.holding.wait(60)
    assert len(unfinished_uploads(s3_url)) == 1
    faulty.deleting.clear()  # the probe was deleted before
    os.kill(process.pid, signal.SIGINT)
    assert not faulty.deleting.wait(1.0)  # a part that arrived after its upload's end would stay
    faulty.go_on.set()
    process.join(60)
    assert process.exitcode == 1
    assert unfinished_uploads(s3_url) == []
    assert release_ids(open_store(s3_url)) == []


def test_a_damaged_blob_in_the_way_is_replaced(s3_url: str, folder: Path) -> None:
    """What has no sha256 in its metadata, or another size, is not believed: the file is sent again."""
    store, sha256 = open_store(s3_url), hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    for content, metadata in [(flipped(FILES[WEIGHTS]), {}), (FILES[WEIGHTS][:-1], {"sha256": sha256})]:
        overwrite(s3_url, blob_name(sha256), content, Metadata=metadata)
        release_id, _ = publish_to(store, folder)
        assert verify(store, release_id) == []
    assert unfinished_uploads(s3_url) == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_large_file_is_sent_in_little_memory(s3_url: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        for i in range(300):
            file.write(random.Random(i).randbytes(1_000_000))
    pin, before, resident = pin_file(path), resident_bytes(), list[int]()

    def send(_: None, work: Work) -> None:
        class Watching(Work):
            def count(self, num_bytes: int) -> None:
                resident.append(resident_bytes())
                work.count(num_bytes)

        open_store(s3_url).put_blob(path, pin, Watching(work._progress))

    in_parallel(send, [None], "send", int(pin["bytes"]))
    assert len(resident) > 300_000_000 // PART_SIZE
    assert max(resident) - before < 150 * 2**20


# What goes wrong with a folder


def test_a_full_disk_is_told_and_leaves_only_whole_blobs(tmp_path: Path, folder: Path) -> None:
    """The operating system refuses files over a megabyte, as a full disk would."""
    store = open_store(f"file://{tmp_path}/store")
    (told,) = together(publish_on_a_full_disk, [task(store.url, folder)])
    assert re.match(
        r"no space left to write .*/blobs/sha256/.* free some and run again: nothing was half-written", told
    )
    assert release_ids(store) == []
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or path.name in {".lock", hashlib.sha256(path.read_bytes()).hexdigest()}
        assert path.name in {".lock", "blobs", "sha256"} or path.is_file()
    assert publish_to(store, folder)[1] == "created"


def test_a_store_that_may_not_be_written_is_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "store").write_text("a file, and no folder")
    with pytest.raises(StorageError, match=r"Not a directory; check the store's folder"):
        publish_to(open_store(f"file://{tmp_path}/store"), folder)


# The command line, and the stage


@pytest.fixture
def packaged(project: Path) -> Path:
    return make_release(project / "outputs" / "release", PACKAGED)


@pytest.fixture(params=["folder", "S3"])
def publishing(request: pytest.FixtureRequest, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let params.yaml name a store; the S3 server is told by params.yaml, and not by the environment."""
    if request.param == "S3":
        edit(Path("params.yaml"), "publish", "url", value=request.getfixturevalue("s3_url"))
        edit(Path("params.yaml"), "publish", "endpoint_url", value=os.environ["AWS_ENDPOINT_URL"])
        monkeypatch.delenv("AWS_ENDPOINT_URL")


@pytest.mark.usefixtures("publishing")
def test_the_commands_from_publish_to_verify(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        assert main(["release", *arguments]) == status
        return capsys.readouterr().out

    def data(*arguments: str, status: int = 0) -> object:
        return json.loads(run(*arguments, "--json", status=status))

    assert main(["publish"]) == 0
    release_id = json.loads(Path("outputs/receipt.json").read_text())["release"]
    (packaged / "README.md").write_bytes(b"# Another release")
    (packaged / "manifest.json").unlink()
    second = write_manifest(packaged)
    assert main(["publish"]) == 0
    capsys.readouterr()

    listed = data("list")
    assert isinstance(listed, list)
    assert {one["release"]: one["aliases"] for one in listed} == {release_id: [], second: ["latest"]}
    assert {one["num_files"] for one in listed} == {len(PACKAGED)}
    assert release_id[:16] in run("list")

    assert data("promote", release_id[:10], "production", "--expect", "none") == {
        "alias": "production",
        "before": None,
        "now": release_id,
    }
    assert main(["release", "promote", "latest", "production", "--expect", "latest"]) == 1
    assert f"production points at {release_id}" in " ".join(capsys.readouterr().err.split())
    assert data("promote", "latest", "production") == {"alias": "production", "before": release_id, "now": second}
    assert "already" in run("promote", "latest", "production")
    moves = data("history", "production")
    assert isinstance(moves, list)
    assert [(move["from"], move["to"]) for move in moves] == [(None, release_id), (release_id, second)]
    assert second[:16] in run("history", "production")

    assert data("download", "production", "--out", "got") == {"release": second, "folder": "got"}
    assert contents(Path("got")) == contents(packaged)
    assert data("verify", "production") == {"release": second, "problems": [], "alias_problems": {}}
    assert "every file is there" in run("verify", "production")


def test_the_commands_tell_what_is_wrong(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish"]) == 0
    release_id = json.loads(Path("outputs/receipt.json").read_text())["release"]
    overwrite("file://published", blob_name(pin_folder(packaged)["README.md"]["sha256"]), b"# A Release")
    assert main(["release", "verify", "latest"]) == 1
    assert "1 problems. Remove the damaged blobs" in " ".join(capsys.readouterr().out.split())
    overwrite("file://published", f"releases/{release_id}.json", b"{}")
    assert main(["release", "list", "--json", "--store", "file://published"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert "is damaged" in listed["problem"]
    assert main(["release", "list"]) == 0
    capsys.readouterr()
    assert main(["release", "list", "--store", "ftp://store"]) == 1
    assert "the store 'ftp://store' is not understood" in capsys.readouterr().err
