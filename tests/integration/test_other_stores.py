"""Stores that differ from Amazon's, or lie: what is refused, what is asked, and that nothing hangs or is lost."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distar.audit.evidence import gather
from distar.errors import DistarError, ModelFileError, ReleaseError, StorageError
from distar.fetching import fetch, fill_mirror, lock_sources
from distar.fetching.bucket import PART_SIZE
from distar.fetching.transport import PAUSES
from distar.hashing import pin_file
from distar.model_files import ModelFiles
from distar.release.package import write_manifest
from distar.release.releases import download, move, point, publish, release_ids, verify
from distar.release.storage import MAX_DOCUMENT, Store, blob_name, open_store
from tests.integration.conftest import S3Server
from tests.integration.faulty import faulty_before
from tests.integration.other_stores import (
    Answer,
    Asked,
    OtherStore,
    listing,
    other_store,
    refusal,
    self_signed,
    slowly,
)
from tests.integration.publishing import attach

URL = "s3://bucket/team"
WEIGHTS = "unet/weights.safetensors"
FILES = {WEIGHTS: random.Random(0).randbytes(PART_SIZE + 1_000_000), "README.md": b"# A release", "empty.txt": b""}
ID = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "release" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "release" / name).write_bytes(content)
    write_manifest(tmp_path / "release")
    return tmp_path / "release"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("DISTAR_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("distar.fetching.transport.PAUSES", (0.01,) * 6)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherStore]:
    with other_store() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def publish_to(store: Store, folder: Path) -> tuple[str, str]:
    return publish(store, folder, lambda release_id: attach(store, release_id))


# Checksums


@pytest.fixture(params=["http", "https"])
def without_checksums(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OtherStore]:
    certificate = self_signed(tmp_path) if request.param == "https" else None
    with other_store(certificate) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "store.pem"))
        server.quirks = {"no checksums", "no chunks"}
        yield server


@pytest.mark.parametrize("place", ["environment", "config file"])
def test_a_store_without_checksums_is_published_to(
    without_checksums: OtherStore, place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")
    else:
        settings = "request_checksum_calculation = when_required\nresponse_checksum_validation = when_required\n"
        (tmp_path / "config").write_text(f"[default]\n{settings}")
    store = open_store(URL)
    release_id, outcome = publish_to(store, folder)
    point(store, "latest", release_id)
    assert (outcome, verify(store, release_id)) == ("created", [])
    assert publish_to(store, folder)[1] == "identical"

    weights = ModelFiles(f"file://{folder}/{WEIGHTS}")
    pins = lock_sources([weights], {}, update=False)
    assert fill_mirror(pins, "s3://bucket/mirror") == 1
    fetch(
        ModelFiles(f"s3://bucket/mirror/sha256/{pin_file(folder / WEIGHTS)['sha256']}"), _pinned(folder), tmp_path / "f"
    )
    names = {name for asked in without_checksums.asked for name in asked.headers}
    assert not [name for name in names if "checksum" in name]


def _pinned(folder: Path) -> dict[str, dict[str, dict[str, str | int]]]:
    pin = pin_file(folder / WEIGHTS)
    return {f"s3://bucket/mirror/sha256/{pin['sha256']}": {str(pin["sha256"]): pin}}


def test_a_store_without_checksums_is_told_apart(without_checksums: OtherStore, folder: Path) -> None:
    with pytest.raises(StorageError, match=r"Unsupported header .*AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        publish_to(open_store(URL), folder)
    assert not without_checksums.objects


def test_checksums_are_sent_unless_told_otherwise(server: OtherStore, folder: Path) -> None:
    publish_to(open_store(URL), folder)
    sent = [asked for asked in server.asked if asked.method == "PUT"]
    assert all("x-amz-checksum-crc32" in asked.headers for asked in sent)


@pytest.mark.parametrize("quirks", [set(), {"opaque etags"}], ids=["by ETag", "by reading back"])
@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
def test_what_a_store_damages_is_found_and_removed(
    server: OtherStore, quirks: set[str], calculation: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", calculation)
    store = open_store(URL)
    server.quirks = quirks
    release_id, _ = publish_to(store, folder)
    assert verify(store, release_id) == []
    key = f"bucket/team/{blob_name(pin_file(folder / WEIGHTS)['sha256'])}"
    del server.objects[key]
    server.quirks = quirks | {"damages"}
    with pytest.raises(StorageError, match=r"has the sha256 .* was sent: the store, .* is at fault; it was removed"):
        publish_to(store, folder)
    assert key not in server.objects
    server.quirks = quirks | {"damages", "no deleting"}
    with pytest.raises(StorageError, match="is at fault; remove it"):
        publish_to(store, folder)


def test_what_a_store_takes_and_forgets_is_told(server: OtherStore, folder: Path) -> None:
    store = open_store(URL)
    server.instead = lambda asked: (
        Answer(200, b"", (("ETag", '"1"'),)) if asked.method == "PUT" and "/blobs/" in asked.key else None
    )
    with pytest.raises(StorageError, match="is not there, though the store took it"):
        publish_to(store, folder)
    assert release_ids(store) == []


# Conditions


def conditional(answer: Answer) -> Callable[[Asked], Answer | None]:
    return lambda asked: answer if asked.conditional else None


NO_CONDITIONS: dict[str, tuple[set[str], Callable[[Asked], Answer | None], str]] = {
    "ignores both": ({"ignores conditions"}, lambda _: None, "overwrites what exists"),
    "ignores If-Match": ({"ignores If-Match"}, lambda _: None, "replaces what was changed meanwhile"),
    "501": (set(), conditional(refusal(501, "NotImplemented")), "NotImplemented: because"),
    "400": (set(), conditional(refusal(400, "InvalidArgument")), "InvalidArgument: because"),
    "405": (set(), conditional(refusal(405, "MethodNotAllowed")), "MethodNotAllowed: because"),
    "409 for ever": (set(), conditional(refusal(409, "ConditionalRequestConflict")), r"other writers .*tried 7 times"),
    "409 by another name": (set(), conditional(refusal(409, "Busy")), r"other writers .*tried 7 times"),
    "412 for ever": (set(), conditional(refusal(412, "PreconditionFailed")), "refuses to create what does not exist"),
    "forgets": (set(), conditional(Answer(200)), "does not give back"),
    "other ETags": (
        set(),
        lambda asked: (
            Answer(200, b'{"probe": 0}\n', (("ETag", '"x"'),))
            if "GET" in asked.method and "probes" in asked.key
            else None
        ),
        "refuses to replace the version that it names",
    ),
}


@pytest.mark.parametrize(("quirks", "instead", "told"), NO_CONDITIONS.values(), ids=NO_CONDITIONS)
def test_a_store_without_conditions_is_refused(
    server: OtherStore, quirks: set[str], instead: Callable[[Asked], Answer | None], told: str, folder: Path
) -> None:
    """At the first write, be it a blob or a document, in few requests, and nothing of ours is written."""
    begun = time.monotonic()
    server.quirks, server.instead = quirks, instead
    for write in (
        lambda store: publish_to(store, folder),
        lambda store: store.create("aliases/a.json", b"{}"),
        lambda store: store.replace("aliases/a.json", b"{}", '"1"'),
    ):
        server.asked.clear()
        with pytest.raises(StorageError, match=rf"(?s)keeps no conditions .*({told}).*would be lost\. Use a store"):
            write(open_store(URL))
        assert len(server.asked) < 40
    assert not [key for key in server.objects if "/probes/" in key]
    assert not server.objects
    assert time.monotonic() - begun < 30


def test_conflicts_are_not_answered_by_a_storm(server: OtherStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distar.fetching.transport.PAUSES", PAUSES)
    server.instead = conditional(refusal(409, "ConditionalRequestConflict"))
    begun = time.monotonic()
    with pytest.raises(StorageError, match="tried 7 times"):
        open_store(URL).create("aliases/a.json", b"{}")
    assert 3 < time.monotonic() - begun < 10
    assert len(server.asked) < 12


def test_a_store_is_asked_once_and_the_probe_removed(server: OtherStore, folder: Path) -> None:
    store = open_store(URL)
    release_id, _ = publish_to(store, folder)
    point(store, "latest", release_id)
    move(store, "production", release_id, None)
    probes = [asked for asked in server.asked if "/probes/" in asked.key]
    assert [asked.method for asked in probes] == ["PUT", "GET", "PUT", "PUT", "PUT", "DELETE"]
    assert server.asked.index(probes[-1]) < min(
        i for i, asked in enumerate(server.asked) if asked.method == "PUT" and "/blobs/" in asked.key
    )
    assert not [key for key in server.objects if "/probes/" in key]


def test_who_may_not_remove_the_probe_may_publish(server: OtherStore, folder: Path) -> None:
    server.quirks = {"no deleting"}
    store = open_store(URL)
    release_id, outcome = publish_to(store, folder)
    assert outcome == "created"
    assert len([key for key in server.objects if "/probes/" in key]) == 1
    assert release_ids(store) == [release_id]
    assert not [name for name in store.names("") if "probes" in name]


def test_answers_that_are_lost_accuse_nobody(server: OtherStore, folder: Path) -> None:
    """Every other answer to a write is lost: each is repeated, and meets its own work."""
    server.quirks = {"loses answers"}
    store = open_store(URL)
    release_id, _ = publish_to(store, folder)
    move(store, "production", release_id, None)
    server.quirks = set()
    assert verify(store, release_id) == []


def test_a_real_store_that_is_not_there_is_no_verdict(server: OtherStore, folder: Path) -> None:
    """What fails for another reason is told as it is, and the store is asked again."""
    store = open_store(URL)
    server.instead = lambda asked: refusal(403, "AccessDenied") if asked.method == "PUT" else None
    with pytest.raises(StorageError, match="may not do this"):
        publish_to(store, folder)
    server.instead = lambda _: None
    assert publish_to(store, folder)[1] == "created"


BUSY = {
    "409": refusal(409, "OperationAborted"),
    "429": refusal(429, "Busy"),
    "429 without a body": Answer(429),
    "503": refusal(503, "SlowDown"),
    "200 with an error": Answer(200, b"<Error><Code>InternalError</Code><Message>because</Message></Error>"),
}


@pytest.mark.parametrize("answer", BUSY.values(), ids=BUSY)
def test_a_busy_store_is_asked_again_and_not_for_ever(server: OtherStore, answer: Answer, folder: Path) -> None:
    store, counts = open_store(URL), dict[str, int]()

    def once_each(asked: Asked) -> Answer | None:
        counts[asked.key] = counts.get(asked.key, 0) + 1
        return (
            answer if counts[asked.key] == 1 and asked.method in {"PUT", "POST"} and "probes" not in asked.key else None
        )

    server.instead = once_each
    assert publish_to(store, folder)[1] == "created"

    server.objects.clear()
    server.instead = lambda asked: answer if "/blobs/" in asked.key and asked.method in {"PUT", "POST"} else None
    server.asked.clear()
    with pytest.raises(StorageError, match=r"tried \d times|other writers") as caught:
        publish_to(store, folder)
    assert "\n" not in str(caught.value)
    assert len(server.asked) < 60


def test_two_writers_of_one_alias_are_both_heard_by_amazon(server: OtherStore) -> None:
    store = open_store(URL)
    assert store.create("aliases/a.json", b"1")
    conflicts = iter([True, True, False])
    server.instead = lambda asked: refusal(409, "ConditionalRequestConflict") if next(conflicts, False) else None
    assert store.create("aliases/b.json", b"2")


# What a store answers


def test_only_names_that_can_be_ours_are_listed(server: OtherStore) -> None:
    ours = [f"releases/{ID}.json", "aliases/latest.json", f"attestations/{ID}/{ID}.intoto.json", f"blobs/sha256/{ID}"]
    foreign = [
        "releases/",
        "releases/../../etc/passwd",
        f"releases/{ID}.json/x",
        f"releases/{ID.upper()}.json",
        f"releases/{ID}.json\n",
        "releases/[/red].json",
        "aliases/\x1b[31m.json",
        "aliases/..json",
        "aliases/deadbeef.json",
        "aliases/a b.json",
        "aliases/a\x00.json",
        f"attestations/{ID}/../{ID}",
        "attestations/short/x.intoto.json",
        "notes.txt",
        "releases/.DS_Store",
    ]
    server.instead = lambda asked: (
        listing([(f"team/{name}", 1) for name in [*ours, *foreign]] + [("elsewhere/aliases/x.json", 1)])
        if "list-type" in asked.query
        else None
    )
    store = open_store(URL)
    assert store.names("") == sorted(ours)
    assert release_ids(store) == [ID]


def numbered() -> Iterator[int]:
    i = 0
    while True:
        yield i
        i += 1


NUMBERS = numbered()
LISTINGS: dict[str, tuple[Callable[[], Answer], str]] = {
    "the same token": (lambda: listing([], "again"), "comes to no end"),
    "two tokens": (lambda: listing([], str(next(NUMBERS) % 2)), "comes to no end"),
    "new tokens": (lambda: listing([], str(next(NUMBERS))), "more than 200 pages"),
    "no token": (
        lambda: Answer(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
        "comes to no end",
    ),
    "nothing": (lambda: Answer(200), "no list of objects"),
    "something else": (lambda: Answer(200, b"<Fine/>"), "no list of objects"),
    "no XML": (lambda: Answer(200, b"hello"), "what answers is not S3"),
    "half of XML": (lambda: Answer(200, b"<ListBucketResult><Contents><Key>a"), "what answers is not S3"),
    "NUL": (lambda: Answer(200, b"<ListBucketResult><Contents><Key>\0</Key></Contents></ListBucketResult>"), "not S3"),
    "a size that is none": (
        lambda: Answer(200, b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>"),
        "not S3|a setting",
    ),
    "a page": (lambda: Answer(200, b"<!DOCTYPE html><html><body>Log in<br></html>"), "not S3"),
    "huge": (lambda: Answer(200, (b" " * 2**20 for _ in range(10_000))), "answers with more than 16777216 bytes"),
    "a huge error": (lambda: Answer(404, (b" " * 2**20 for _ in range(10_000))), "answers with more than 16777216"),
    "markup": (lambda: refusal(418, "[/red]", "a\n" * 1000), r"the store answers \[/red\]: a a a"),
    "no message": (lambda: Answer(418), "the store answers 418"),
    "entities": (
        lambda: Answer(
            200,
            b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
            + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
            + b"]><ListBucketResult><Contents><Key>&j;</Key></Contents></ListBucketResult>",
        ),
        "what answers is not S3",
    ),
}


@pytest.mark.parametrize(("answer", "told"), LISTINGS.values(), ids=LISTINGS)
def test_a_listing_that_is_none_is_told(server: OtherStore, answer: Callable[[], Answer], told: str) -> None:
    begun = time.monotonic()
    server.instead = lambda _: answer()
    for ask in (
        lambda: release_ids(open_store(URL)),
        lambda: lock_sources([ModelFiles("s3://bucket/models")], {}, update=False),
    ):
        with pytest.raises(DistarError, match=told) as caught:
            ask()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1200
    assert time.monotonic() - begun < 10


def test_a_source_that_names_files_elsewhere_is_refused(server: OtherStore) -> None:
    for name in ("../up.json", "a/../../up.json", "/etc/up.json", "a\x00.json", "a" * 300 + ".json"):
        server.instead = lambda asked, name=name: (
            listing([(f"models/{name}", 1)]) if "list-type" in asked.query else None
        )
        with pytest.raises(ModelFileError, match="cannot be a file's name"):
            lock_sources([ModelFiles("s3://bucket/models", ("*.json",))], {}, update=False)


def documents(answer: Answer) -> Callable[[Asked], Answer | None]:
    return lambda asked: answer if asked.method == "GET" and "list-type" not in asked.query else None


def test_a_document_of_any_size_is_read_to_its_limit(server: OtherStore) -> None:
    store = open_store(URL)
    sent = list[int]()

    def endless() -> Iterator[bytes]:
        for _ in range(1024):
            sent.append(2**20)
            yield b" " * 2**20

    for answer in (
        Answer(200, endless(), (("ETag", '"1"'),)),
        Answer(200, endless(), (("ETag", '"1"'), ("Content-Length", str(2**30)))),
    ):
        server.instead = documents(answer)
        with pytest.raises(ReleaseError, match=rf"latest\.json has more than {MAX_DOCUMENT} bytes"):
            store.read("aliases/latest.json")
    assert sum(sent) < 200 * 2**20
    server.instead = documents(Answer(200, b"{}"))
    with pytest.raises(StorageError, match="gives no ETag"):
        store.read("aliases/latest.json")


def test_a_blob_is_read_to_its_pins_end(server: OtherStore, folder: Path, tmp_path: Path) -> None:
    store, sent = open_store(URL), list[int]()
    release_id, _ = publish_to(store, folder)

    def endless() -> Iterator[bytes]:
        for _ in range(1024):
            sent.append(2**20)
            yield b" " * 2**20

    server.instead = lambda asked: Answer(200, endless()) if asked.method == "GET" and "/blobs/" in asked.key else None
    assert {problem.problem for problem in verify(store, release_id)} == {"size"}
    with pytest.raises(ReleaseError, match="size: expected"):
        download(store, release_id, tmp_path / "downloaded")
    with pytest.raises(ReleaseError, match="is damaged"):
        gather(store, release_id).read("README.md")
    assert sum(sent) < 200 * 2**20


def test_an_alias_that_never_moves_is_told(server: OtherStore, folder: Path) -> None:
    store = open_store(URL)
    release_id, _ = publish_to(store, folder)
    server.instead = lambda asked: refusal(412, "PreconditionFailed") if "if-none-match" in asked.headers else None
    for act in (lambda: point(store, "latest", release_id), lambda: move(store, "latest", release_id, None)):
        with pytest.raises(StorageError, match="could not be moved in 30 tries"):
            act()


def test_a_document_that_breaks_off_is_read_again(server: OtherStore) -> None:
    store = open_store(URL)
    broken = Answer(200, iter([b"{"]), (("ETag", '"1"'), ("Content-Length", "100")))
    answers = iter([broken, Answer(200, b"{}", (("ETag", '"1"'),))])
    server.instead = lambda _: next(answers)
    assert store.read("aliases/latest.json") == (b"{}", '"1"')
    server.instead = lambda _: broken
    with pytest.raises(StorageError, match=r"the connection broke .*\(tried 4 times\)"):
        store.read("aliases/latest.json")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distar.fetching.transport.SECONDS_OF_PATIENCE", 1.0)


@pytest.mark.usefixtures("impatient")
def test_what_trickles_is_given_up(server: OtherStore, folder: Path, tmp_path: Path) -> None:
    """A byte now and then is never silent for long enough to be taken for a broken connection."""
    store = open_store(URL)
    release_id, _ = publish_to(store, folder)
    begun = time.monotonic()

    def trickling(asked: Asked, part: str) -> Answer | None:
        if asked.method != "GET" or part not in f"{asked.key} {asked.query}":
            return None
        length = ("Content-Length", str(len(FILES[WEIGHTS])))
        return Answer(200, slowly(b"x", 0.1, 600), (("ETag", '"1"'), length))

    for part, ask in {
        "blobs": lambda: download(store, release_id, tmp_path / "downloaded"),
        "manifest": lambda: store.read("aliases/manifest.json"),
        "list-type": lambda: release_ids(store),
    }.items():
        server.instead = lambda asked, part=part: trickling(asked, part)
        with pytest.raises(StorageError, match=r"only \d+ bytes came in \d s"):
            ask()
    pin = pin_file(folder / WEIGHTS)
    server.instead = lambda asked: trickling(asked, "models")
    with pytest.raises(StorageError, match=r"only \d+ bytes came in \d s"):
        fetch(ModelFiles("s3://bucket/models"), {"s3://bucket/models": {"weights": pin}}, tmp_path / "fetched")
    assert time.monotonic() - begun < 20


@pytest.mark.usefixtures("impatient")
def test_whoever_reads_slowly_is_not_given_up(server: OtherStore, folder: Path) -> None:
    store = open_store(URL)
    publish_to(store, folder)
    size = 0
    with store.open_blob(str(pin_file(folder / WEIGHTS)["sha256"])) as chunks:
        for chunk in chunks:
            time.sleep(0.3)
            size += len(chunk)
    assert size == len(FILES[WEIGHTS])


def test_headers_that_are_missing_or_odd_are_no_traceback(server: OtherStore, folder: Path) -> None:
    store = open_store(URL)
    publish_to(store, folder)
    pin = pin_file(folder / WEIGHTS)
    server.instead = lambda asked: Answer(200) if asked.method == "HEAD" else None
    assert not store.has_blob(pin)
    for header in (("Content-Range", "nonsense"), ("Last-Modified", "nonsense"), ("Expires", "nonsense")):
        server.instead = lambda asked, header=header: (
            Answer(206, b"abc", (header, ("ETag", '"1"'))) if asked.method == "GET" else None
        )
        try:
            with store.open_blob(str(pin["sha256"]), 3) as chunks:
                assert b"".join(chunks) == b"abc"
        except StorageError as error:
            assert str(error).isprintable()  # noqa: PT017  either is right
    server.instead = lambda _: refusal(416, "InvalidRange")
    with store.open_blob(str(pin["sha256"]), 3) as chunks:
        assert list(chunks) == []


def test_a_real_server_keeps_conditions(s3: S3Server, s3_bucket: str, folder: Path) -> None:
    with faulty_before(s3.url) as faulty:
        store = open_store(f"s3://{s3_bucket}/{folder.parent.name}", faulty.url)
        release_id, _ = publish_to(store, folder)
        point(store, "latest", release_id)
    asked = [method for method, address, _ in faulty.requests if "/probes/" in address]
    assert asked == ["PUT", "GET", "PUT", "PUT", "PUT", "DELETE"]


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    from tests.integration.conftest import client_of

    client_of(s3_server).create_bucket(Bucket="others")
    return "others"
