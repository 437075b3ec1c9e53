"""Fetching from the hub with the real client: what comes, what goes wrong and how it is told, what is resumed."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distar.errors import ModelFileError
from distar.fetching import fetch, lock_sources
from distar.model_files import ModelFiles
from tests.integration.hub import REVISION, Fault, Hub

SOURCE = f"hf://owner/name@{REVISION}"
WEIGHTS = "unet/weights.safetensors"
FETCHED = Path("fetched")
DOWNLOADS = Path("downloads")
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    WEIGHTS: random.Random(0).randbytes(3_000_000),
    "vae/weights.safetensors": random.Random(1).randbytes(5_000),
    "unet/weights.bin": b"not wanted" * 1000,
    "README.md": b"# A model",
}
NEEDED = ModelFiles(SOURCE, ("*.json", "*.safetensors"))
PINNED = {
    name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    for name, content in FILES.items()
    if name.endswith((".json", ".safetensors"))
}
PINS = {SOURCE: PINNED}
PARTIAL = DOWNLOADS / f"{PINNED[WEIGHTS]['sha256']}.partial"


@pytest.fixture(autouse=True)
def _repository(hub: Hub) -> None:
    hub.repositories["models/owner/name"] = dict(FILES)


def fetched() -> dict[str, bytes]:
    return {p.relative_to(FETCHED).as_posix(): p.read_bytes() for p in FETCHED.rglob("*") if p.is_file()}


def fetch_it() -> None:
    fetch(NEEDED, PINS, FETCHED)


def test_locks_and_fetches_what_is_needed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pins = lock_sources([NEEDED], {}, update=False)
    assert pins == PINS
    assert hub.ranges_of(".safetensors") == []  # the hub knows their sha256
    fetch(NEEDED, pins, FETCHED)
    assert fetched() == {name: FILES[name] for name in PINNED}
    assert "3.0 MB/3.0 MB" in capsys.readouterr().err
    assert {request.path.rpartition("/")[2] for request in hub.requests if "owner/name" in request.path} == {
        REVISION,
        "model_index.json",
        "weights.safetensors",
    }


def test_second_fetch_asks_for_nothing(hub: Hub) -> None:
    fetch_it()
    hub.requests.clear()
    fetch(NEEDED, PINS, Path("elsewhere"))
    assert hub.requests == []


@pytest.mark.parametrize(("path", "names"), [("unet", {"weights.safetensors"}), (WEIGHTS, {"weights.safetensors"})])
def test_a_source_is_a_folder_or_a_file_of_a_repository(path: str, names: set[str]) -> None:
    files = ModelFiles(f"{SOURCE}/{path}", ("*.safetensors",))
    fetch(files, lock_sources([files], {}, update=False), FETCHED)
    assert fetched() == dict.fromkeys(names, FILES[WEIGHTS])


def test_a_file_in_a_folder_of_the_same_name(hub: Hub) -> None:
    hub.repositories["models/owner/name"]["prompts/prompts"] = b"a red star\n"
    files = ModelFiles(f"{SOURCE}/prompts")
    fetch(files, lock_sources([files], {}, update=False), FETCHED)
    assert fetched() == {"prompts": b"a red star\n"}


def test_a_data_set(hub: Hub) -> None:
    hub.repositories["datasets/owner/prompts"] = {"data/train.txt": b"a red star\n", "data/empty.txt": b""}
    files = ModelFiles(f"hf://datasets/owner/prompts@{REVISION}/data")
    fetch(files, lock_sources([files], {}, update=False), FETCHED)
    assert fetched() == {"train.txt": b"a red star\n", "empty.txt": b""}


def test_the_token_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_it()
    assert {request.token for request in hub.requests if "owner/name" in request.path} == {"Bearer hf_secret"}


PASSING = {
    "rate limit": Fault(WEIGHTS, 429, {"Retry-After": "0"}),
    "server error": Fault(WEIGHTS, 500),
    "gateway": Fault(WEIGHTS, 503, {"Retry-After": "0"}),
    "connection cut": Fault(WEIGHTS, 200, body=FILES[WEIGHTS][:1000], cut=True),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(fault: Fault, hub: Hub) -> None:
    hub.faults = [fault, fault]
    if fault.cut:
        hub.faults = [fault]
    fetch_it()
    assert fetched() == {name: FILES[name] for name in PINNED}
    assert hub.faults == []
    tries = hub.ranges_of(WEIGHTS)
    assert tries == ([None, "bytes=1000-"] if fault.cut else [None] * 3)


def test_the_server_says_how_long_to_wait(hub: Hub) -> None:
    hub.faults = [Fault(WEIGHTS, 429, {"Retry-After": "1"})]
    before = time.monotonic()
    fetch_it()
    assert time.monotonic() - before > 1.0


def test_a_server_without_ranges_is_read_from_the_beginning(hub: Hub) -> None:
    hub.ranges = False
    hub.faults = [PASSING["connection cut"]]
    fetch_it()
    assert fetched() == {name: FILES[name] for name in PINNED}


def test_a_connection_that_brings_a_little_each_time_is_not_given_up(hub: Hub) -> None:
    content, cut = FILES[WEIGHTS], 100_000
    hub.faults = [Fault(WEIGHTS, 200, body=content[i * cut : (i + 1) * cut], cut=True) for i in range(10)]
    fetch_it()
    assert fetched()[WEIGHTS] == content
    assert len(hub.ranges_of(WEIGHTS)) == 11


HTML = {"Content-Type": "text/html"}
LASTING = {
    "rate limit": ([Fault(WEIGHTS, 429, {"Retry-After": "0"})] * 4, ["429", "HF_TOKEN", "tried 4 times"]),
    "rate limit for an hour": ([Fault(WEIGHTS, 429, {"Retry-After": "3600"})], ["429", "asks to wait 3600 s"]),
    "server error": ([Fault(WEIGHTS, 500)] * 4, ["the server fails (500)", "tried 4 times"]),
    "gated": (
        [Fault(WEIGHTS, 403, {"X-Error-Code": "GatedRepo"})],
        ["gated", "accept its licence at http://127.0.0.1", "/owner/name", "HF_TOKEN"],
    ),
    "gated without a token": ([Fault(WEIGHTS, 401, {"X-Error-Code": "GatedRepo"})], ["gated", "HF_TOKEN"]),
    "bad token": ([Fault(WEIGHTS, 401)], ["access is refused (401)", "HF_TOKEN"]),
    "gone": ([Fault(WEIGHTS, 404, {"X-Error-Code": "EntryNotFound"})], [WEIGHTS, "no such file"]),
    "a login page": (
        [Fault(WEIGHTS, 200, HTML, b"<html>Log in</html>")],
        ["expected 3000000 bytes", "offers 19 (text/html)"],
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_told_and_leaves_nothing(name: str, hub: Hub) -> None:
    hub.faults, expected = list(LASTING[name][0]), LASTING[name][1]
    with pytest.raises(ModelFileError) as caught:
        fetch_it()
    for text in [f"{SOURCE}", *expected]:
        assert text in str(caught.value)
    assert fetched() == {}
    fetch_it()
    assert fetched() == {name: FILES[name] for name in PINNED}


def test_a_flipped_byte_is_found_and_the_next_fetch_starts_afresh(hub: Hub) -> None:
    right = hub.repositories["models/owner/name"][WEIGHTS]
    hub.repositories["models/owner/name"][WEIGHTS] = bytes([right[0] ^ 1]) + right[1:]
    with pytest.raises(ModelFileError, match=f"{WEIGHTS}: expected sha256 {PINNED[WEIGHTS]['sha256']}"):
        fetch_it()
    assert not PARTIAL.exists()
    hub.repositories["models/owner/name"][WEIGHTS] = right
    fetch_it()
    assert fetched()[WEIGHTS] == right


def test_a_damaged_download_is_fetched_again(hub: Hub) -> None:
    fetch_it()
    download = PARTIAL.with_suffix("")
    download.write_bytes(download.read_bytes()[:-1] + b"?")
    fetch_it()
    assert fetched()[WEIGHTS] == FILES[WEIGHTS]
    assert hub.ranges_of(WEIGHTS) == [None, None]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"hf://owner/name@{'f' * 40}", ["has no revision ffff", "/owner/name/commits/main"]),
        (f"hf://owner/nothing@{REVISION}", ["there is no repository owner/nothing", "HF_TOKEN"]),
        (f"{SOURCE}/text_encoder", ["there is no such file or folder"]),
        ("hf://owner/name@main", ["branch or a tag", f"stands today: hf://owner/name@{REVISION}"]),
        ("hf://owner/name@main/text.json", ["stands today", f"hf://owner/name@{REVISION}/text.json"]),
        ("hf://owner/name@other", ["has no revision other"]),
        ("http://owner/name", ["not understood", "40 hexadecimal digits"]),
    ],
)
def test_what_cannot_be_locked_is_told(source: str, expected: list[str]) -> None:
    with pytest.raises(ModelFileError) as caught:
        lock_sources([ModelFiles(source)], {}, update=False)
    for text in [source, *expected]:
        assert text in str(caught.value)


def test_listing_is_tried_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults = [Fault(REVISION, 503), Fault(REVISION, 429, {"Retry-After": "0"})]
    assert lock_sources([NEEDED], {}, update=False) == PINS


def test_no_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(str(hub.port), "9")  # nothing listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(ModelFileError, match=r"cannot be reached \(ConnectError.*HF_ENDPOINT"):
        fetch_it()


def test_offline_only_what_is_there_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match=r"model_index.json.*nor in the hub's cache.*HF_HUB_OFFLINE is set"):
        fetch(ModelFiles(SOURCE, ("model_index.json",)), PINS, FETCHED)
    snapshot = Path(constants.HF_HUB_CACHE) / "models--owner--name" / "snapshots" / REVISION
    for name in PINNED:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(FILES[name])
    fetch_it()
    assert fetched() == {name: FILES[name] for name in PINNED}
    assert hub.requests == []


def test_a_pin_changes_only_on_update(hub: Hub) -> None:
    hub.repositories["models/owner/name"]["model_index.json"] = b"{}"
    with pytest.raises(ModelFileError) as caught:
        lock_sources([NEEDED], {**PINS, "file://gone": {}}, update=False)
    new = hashlib.sha256(b"{}").hexdigest()
    for text in ("model_index.json", str(PINNED["model_index.json"]["sha256"]), new, "--update"):
        assert text in str(caught.value)
    pins = lock_sources([NEEDED], {**PINS, "file://gone": {}}, update=True)
    assert pins == {SOURCE: {**PINNED, "model_index.json": {"sha256": new, "bytes": 2}}}


def test_a_lock_file_cannot_write_outside(hub: Hub) -> None:
    with pytest.raises(ModelFileError, match="outside its folder"):
        fetch(ModelFiles(SOURCE), {SOURCE: {"../README.md": PINNED[WEIGHTS]}}, FETCHED)


FETCH = f"""
import sys
from pathlib import Path
from distar.errors import DistarError
from distar.fetching import fetch
from distar.model_files import ModelFiles
try:
    fetch(ModelFiles({SOURCE!r}, {NEEDED.patterns!r}), {PINS!r}, Path(sys.argv[1]))
except DistarError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def start(hub: Hub, folder: str = "fetched", **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(Path("hub-cache").absolute())}
    command = [sys.executable, "-c", FETCH, folder]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **options)


def wait_for_bytes(number: int) -> None:
    deadline = time.monotonic() + 60
    while not PARTIAL.exists() or PARTIAL.stat().st_size < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.seconds_a_chunk = 0.05
    with start(hub) as process:
        wait_for_bytes(500_000)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    got = PARTIAL.stat().st_size
    assert 500_000 <= got < len(FILES[WEIGHTS])
    assert fetched() == {}
    hub.seconds_a_chunk = 0.0
    fetch_it()
    assert fetched() == {name: FILES[name] for name in PINNED}
    assert hub.ranges_of(f"/{WEIGHTS}") == [None, f"bytes={got}-"]


def test_two_processes_download_a_file_once(hub: Hub) -> None:
    hub.seconds_a_chunk = 0.02
    with start(hub, "one") as one, start(hub, "two") as two:
        assert (one.wait(60), two.wait(60)) == (0, 0)
    assert Path("one", WEIGHTS).read_bytes() == Path("two", WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.ranges_of(f"/{WEIGHTS}") == [None]


def test_ctrl_c_ends_a_download_at_once(hub: Hub) -> None:
    def heed() -> None:  # a shell's background jobs ignore Ctrl-C, and what they start inherits that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    hub.seconds_a_chunk = 1.0  # the whole would take 46 s
    with start(hub, preexec_fn=heed) as process:
        wait_for_bytes(100_000)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    assert fetched() == {}


def test_full_disk_keeps_what_has_come(hub: Hub) -> None:
    """The operating system refuses files over a megabyte, as a full disk would."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    with start(hub, preexec_fn=limit) as process:
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"StorageError: no space left to write {PARTIAL.absolute()}" in message
    assert "the next run goes on from there" in message
    assert fetched() == {}
    assert PARTIAL.stat().st_size == 1_000_000
    fetch_it()
    assert hub.ranges_of(f"/{WEIGHTS}") == [None, "bytes=1000000-"]
    assert fetched()[WEIGHTS] == FILES[WEIGHTS]


def test_a_needed_file_that_is_not_pinned_stops_the_fetch(hub: Hub) -> None:
    """A lock file may know some hashes before the first `distar models lock`; that is not a whole model."""
    partly = {SOURCE: {WEIGHTS: PINNED[WEIGHTS]}}
    with pytest.raises(ModelFileError, match=r"no pinned file matches \*\.json; run `distar models lock`"):
        fetch(NEEDED, partly, FETCHED)
    with pytest.raises(ModelFileError, match=r"no file there matches \*\.gguf"):
        lock_sources([ModelFiles(SOURCE, ("*.safetensors", "*.gguf"))], {}, update=False)
    optional = ModelFiles(SOURCE, ("*.safetensors",), optional=("*.gguf",))
    assert list(lock_sources([optional], {}, update=False)[SOURCE]) == [WEIGHTS, "vae/weights.safetensors"]


@pytest.mark.parametrize("proxy", ["http://u:hidden81/x@127.0.0.1:9", ":::hidden81", "ftp://hidden81:1"])
def test_a_proxy_that_cannot_be_understood_is_not_repeated(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import close_session

    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    close_session()  # the client reads the proxies once
    try:
        with pytest.raises(
            ModelFileError, match=r"proxy .*correct or unset those of HTTP_PROXY, .*%2F for /"
        ) as caught:
            lock_sources([NEEDED], {}, update=False)
        assert "hidden81" not in str(caught.value)
    finally:
        close_session()
