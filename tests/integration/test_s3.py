"""Fetching from a real S3 server, and mirrors in it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distar import paths
from distar.__main__ import main
from distar.errors import DistarError, ModelFileError, StorageError
from distar.fetching import fetch, fill_mirror, lock_sources
from distar.model_files import ModelFiles
from tests.integration.conftest import S3Server, client_of
from tests.integration.hub import REVISION, Fault, Hub
from tests.miniature import edit, state_licences

FETCHED = Path("fetched")
FILES = {
    "models/config.json": b"{}",
    "models/unet/weights.safetensors": random.Random(0).randbytes(9_000_000),
    "models/notes.txt": b"not wanted",
    "models-of-others/config.json": b"[]",
}
NEEDED = ("*.json", "*.safetensors")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTAR_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def models(s3: S3Server, bucket: str) -> ModelFiles:
    for key, content in FILES.items():
        client_of(s3).put_object(Bucket=bucket, Key=key, Body=content)
    return ModelFiles(f"s3://{bucket}/models", NEEDED)


def fetched() -> dict[str, bytes]:
    return {p.relative_to(FETCHED).as_posix(): p.read_bytes() for p in FETCHED.rglob("*") if p.is_file()}


def test_locks_and_fetches_what_is_needed(models: ModelFiles) -> None:
    pins = lock_sources([models], {}, update=False)
    assert pins[models.source]["config.json"] == {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}
    fetch(models, pins, FETCHED)
    assert fetched() == {
        "config.json": b"{}",
        "unet/weights.safetensors": FILES["models/unet/weights.safetensors"],
    }


def test_a_source_may_be_one_file(models: ModelFiles) -> None:
    file = ModelFiles(f"{models.source}/notes.txt")
    fetch(file, lock_sources([file], {}, update=False), FETCHED)
    assert fetched() == {"notes.txt": b"not wanted"}


def test_an_interrupted_download_goes_on(models: ModelFiles) -> None:
    """What has come is taken as it is: were it read anew, the wrong beginning would be healed, and pass."""
    content = FILES["models/unet/weights.safetensors"]
    sha256 = hashlib.sha256(content).hexdigest()
    pins = {models.source: {"unet/weights.safetensors": {"sha256": sha256, "bytes": len(content)}}}
    weights = ModelFiles(models.source, ("*.safetensors",))
    partial = Path("downloads") / f"{sha256}.partial"
    partial.parent.mkdir()
    partial.write_bytes(b"?" * 5_000_000)
    with pytest.raises(ModelFileError, match="expected sha256"):
        fetch(weights, pins, FETCHED)
    assert not partial.exists()
    partial.write_bytes(content[:5_000_000])
    fetch(weights, pins, FETCHED)
    assert fetched() == {"unet/weights.safetensors": content}


def test_a_broken_connection_is_taken_up_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", hub.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    content = FILES["models/unet/weights.safetensors"]
    hub.objects["bucket/weights.bin"] = content
    hub.faults = [Fault("weights.bin", 200, body=content[:1_000_000], cut=True)]
    pin = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    fetch(ModelFiles("s3://bucket"), {"s3://bucket": {"weights.bin": pin}}, FETCHED)
    assert fetched() == {"weights.bin": content}
    first, second = hub.ranges_of("weights.bin")
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 1_000_000


def test_what_goes_wrong_is_told(models: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(source: str, kind: type[DistarError], *expected: str) -> None:
        with pytest.raises(kind) as caught:
            lock_sources([ModelFiles(source)], {}, update=False)
        for text in expected:
            assert text in str(caught.value)

    told("s3://there-is-none/models", StorageError, "s3://there-is-none/models", "there is no such bucket")
    told(f"{models.source}/vae", ModelFileError, "there is no such file or folder")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    told(models.source, StorageError, "refuses the credentials (SignatureDoesNotMatch)", "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    told(models.source, StorageError, "refuses the credentials (InvalidAccessKeyId)")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    told(models.source, StorageError, "http://127.0.0.1:9 cannot be reached", "AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    told(models.source, StorageError, "there are no credentials for S3", "AWS_PROFILE")


def test_a_missing_object_is_told(models: ModelFiles) -> None:
    pins = {models.source: {"gone.json": {"sha256": "0" * 64, "bytes": 3}}}
    with pytest.raises(ModelFileError, match=r"s3://.*/models/gone.json: there is no such object"):
        fetch(ModelFiles(models.source), pins, FETCHED)
    assert fetched() == {}


def test_a_mirror_replaces_the_hub(hub: Hub, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["models/owner/name"] = {"config.json": b"{}", "weights.bin": bytes(2000), "copy.bin": bytes(2000)}
    files, url = ModelFiles(f"hf://owner/name@{REVISION}"), f"s3://{bucket}/mirror"
    pins = lock_sources([files], {}, update=False)
    assert fill_mirror(pins, url) == 2
    assert fill_mirror(pins, url) == 0
    listing = client_of(s3).list_objects_v2(Bucket=bucket)["Contents"]
    assert {entry["Key"] for entry in listing} == {
        f"mirror/sha256/{hashlib.sha256(content).hexdigest()}" for content in (b"{}", bytes(2000))
    }

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("DISTAR_DOWNLOADS", "empty")
    hub.requests.clear()
    fetch(files, pins, FETCHED, mirror=url)
    assert fetched() == hub.repositories["models/owner/name"]
    assert hub.requests == []


def test_what_a_mirror_lacks_comes_from_the_source(
    hub: Hub, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["models/owner/name"] = {"config.json": b"{}"}
    files = ModelFiles(f"hf://owner/name@{REVISION}")
    pins = lock_sources([files], {}, update=False)
    monkeypatch.setenv("DISTAR_DOWNLOADS", "empty")
    fetch(files, pins, FETCHED, mirror=f"s3://{bucket}/mirror")
    assert fetched() == {"config.json": b"{}"}


def test_a_mirror_that_refuses_is_told(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")
    pins = lock_sources([ModelFiles("file://file.txt")], {}, update=False)
    with pytest.raises(StorageError, match="there is no such bucket"):
        fill_mirror(pins, "s3://there-is-none/mirror")


def test_the_chain_fetches_from_s3_through_a_mirror(s3: S3Server, bucket: str, project: Path) -> None:
    """The commands on a project whose reference lies in S3: lock, mirror, fetch without the source, verify."""
    client: Any = client_of(s3)
    for path in sorted(p for p in (project / "models" / "reference").rglob("*") if p.is_file()):
        client.upload_file(str(path), bucket, path.relative_to(project).as_posix())
    edit(Path("profiles/mini.yaml"), "reference", "source", value=f"s3://{bucket}/models/reference")
    state_licences(project)
    edit(Path("params.yaml"), "models", "mirror", value=f"s3://{bucket}/mirror")
    assert main(["models", "lock"]) == 0
    assert main(["models", "mirror"]) == 0
    for path in sorted(p for p in (project / "models" / "reference").rglob("*") if p.is_file()):
        client.delete_object(Bucket=bucket, Key=path.relative_to(project).as_posix())
    command = [sys.executable, "-m", "distar", "reference"]
    environment = {**os.environ, "DISTAR_DOWNLOADS": "empty"}
    subprocess.run(command, env=environment, check=True)
    assert main(["models", "verify"]) == 0
    unet = paths.REFERENCE / "unet" / "diffusion_pytorch_model.safetensors"
    assert unet.read_bytes() == Path("models/reference/unet/diffusion_pytorch_model.safetensors").read_bytes()
