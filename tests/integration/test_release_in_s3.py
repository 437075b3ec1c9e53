"""A release from `dvc repro` to the audit, through a real S3 server with real credentials."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distar.__main__ import main
from distar.release.keys import generate_key
from tests.integration.conftest import SECRET_KEY, S3Server, client_of
from tests.miniature import edit, run_dvc

LOAD_AND_DRAW = """
import sys
sys.modules["distar"] = None  # it must not be needed
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
picture = pipeline("a red star", latents=noise, timesteps=[625], guidance_scale=0, output_type="pt").images[0]
assert picture.shape == (3, 16, 16) and picture.isfinite().all()
"""


@pytest.fixture
def published(reproduced: Path, s3: S3Server, bucket: str) -> str:
    """Publish the project's release, signed, to S3; return the store's URL."""
    generate_key(Path("key"))
    url = f"s3://{bucket}/team/releases"
    edit(Path("params.yaml"), "publish", "url", value=url)
    edit(Path("params.yaml"), "publish", "endpoint_url", value=s3.url)
    edit(Path("params.yaml"), "publish", "signing_key", value="key")
    edit(Path("params.yaml"), "publish", "trusted_keys", value=["key.pub"])
    told = run_dvc(reproduced, "repro")
    assert [line for line in told.splitlines() if line.startswith("Running stage")] == ["Running stage 'publish':"]
    assert "signed by" in told
    return url


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_published_verified_downloaded_loaded_and_audited(published: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = asked(capsys, "release", "verify", "latest")
    assert (status, found["problems"]) == (0, [])

    assert main(["release", "download", "latest", "--out", "downloaded"]) == 0
    subprocess.run([sys.executable, "-I", "-c", LOAD_AND_DRAW, "downloaded"], check=True)

    status, shown = asked(capsys, "audit", "show", "latest")
    assert (status, shown["store"], shown["profile"]) == (0, published, "mini")
    assert len(shown["runs"]) == 8
    assert len(shown["signed_by"]) == 1

    status, verified = asked(capsys, "audit", "verify", "latest")
    assert (status, verified["gaps"]) == (0, [])
    signed = {check["what"].partition(" by ")[0] for check in verified["checks"] if "trusted key" in check["detail"]}
    assert signed == {"model signature", "provenance"}


def test_no_secret_is_in_the_store_or_the_records(published: str, s3: S3Server, bucket: str) -> None:
    client = client_of(s3)
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    contents = [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    contents += [path.read_bytes() for path in Path("runs").rglob("*.json")]
    assert any(b"slsa.dev" in content or b"payload" in content for content in contents)
    private = Path("key").read_bytes().splitlines()[1]
    for content in contents:
        assert SECRET_KEY.encode() not in content
        assert private not in content


def test_what_is_changed_in_the_bucket_is_named(
    published: str, s3: S3Server, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = client_of(s3)
    _, shown = asked(capsys, "audit", "show", "latest")
    weights = "unet/diffusion_pytorch_model.safetensors"
    key = f"team/releases/blobs/sha256/{shown['files'][weights]['sha256']}"
    content = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    content[-1] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(content))
    client.delete_object(Bucket=bucket, Key=f"team/releases/blobs/sha256/{shown['files']['LICENCES.md']['sha256']}")
    status, verified = asked(capsys, "audit", "verify", "latest")
    assert status == 1
    assert {gap["what"] for gap in verified["gaps"]} == {f"file {weights}", "file LICENCES.md"}
    assert main(["release", "download", "latest", "--out", "downloaded"]) == 1
    assert not Path("downloaded").exists()


def test_two_keys_may_sign_and_a_promotion_has_a_history(published: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate_key(Path("auditor"))
    assert main(["release", "sign", "latest", "--key", "auditor"]) == 0
    _, shown = asked(capsys, "audit", "show", "latest", "--key", "auditor.pub", "--key", "key.pub")
    assert len(shown["signed_by"]) == 2
    assert asked(capsys, "audit", "verify", "latest", "--key", "auditor.pub")[0] == 0
    assert main(["release", "promote", "latest", "champion", "--expect", "none"]) == 0
    _, moves = asked(capsys, "release", "history", "champion")
    assert [(move["from"], move["to"]) for move in moves] == [(None, shown["release"])]
    assert main(["release", "promote", "latest", "champion", "--expect", "none"]) == 1
    assert "points at" in capsys.readouterr().err
