"""Bad input: each a clear error that names the field or file and the remedy, and nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distar import paths
from distar.__main__ import main
from distar.training.checkpoint import WorkDirectory
from tests.miniature import edit, state_licences

PROFILE = Path("profiles/mini.yaml")
UNET = Path("models/reference/unet/diffusion_pytorch_model.safetensors")


def corrupt() -> None:
    content = bytearray(UNET.read_bytes())
    content[-1] ^= 1
    UNET.write_bytes(content)


CASES: dict[str, tuple[Callable[[], object], str, list[str]]] = {
    "unknown profile": (
        lambda: edit(Path("params.yaml"), "profile", value="sd51"),
        "prompts",
        ["params.yaml: profile", "'sd51'", "mini"],
    ),
    "misspelt parameter": (
        lambda: PROFILE.write_text(PROFILE.read_text().replace("reward_scale:", "reward_scail:")),
        "train",
        ["mini.yaml: train.reward_scail: there is no such parameter", "train.reward_scale: this parameter is missing"],
    ),
    "wrong type": (
        lambda: edit(PROFILE, "train", "batch_size", value="many"),
        "train",
        ["mini.yaml: train.batch_size", "'many'", "integer"],
    ),
    "out of range": (
        lambda: edit(PROFILE, "train", "reward_scale", value=-1.0),
        "train",
        ["mini.yaml: train.reward_scale", "-1.0", "greater than or equal to 0"],
    ),
    "unknown divergence": (
        lambda: edit(PROFILE, "train", "divergence", "kind", value="huber"),
        "train",
        ["mini.yaml: train.divergence", "huber", "pseudo_huber"],
    ),
    "unknown reward": (
        lambda: edit(PROFILE, "train", "rewards", value={"beauty": 1.0}),
        "train",
        ["train.rewards names 'beauty'", "preference, matching, judge"],
    ),
    "not YAML": (
        lambda: PROFILE.write_text("train: [1, 2"),
        "train",
        ["mini.yaml is not a YAML document"],
    ),
    "wrong sha256": (corrupt, "reference", ["unet/diffusion_pytorch_model.safetensors", "expected sha256", "got"]),
    "truncated weights": (
        lambda: os.truncate(UNET, 1000),
        "reference",
        ["unet/diffusion_pytorch_model.safetensors", "got 1000", "truncated"],
    ),
    "missing weights": (UNET.unlink, "reference", ["unet/diffusion_pytorch_model.safetensors", "does not exist"]),
    "unpinned source": (
        lambda: (edit(PROFILE, "reference", "source", value="hf://owner/name@main"), state_licences(Path())),
        "reference",
        ["hf://owner/name@main is not pinned"],
    ),
    "empty prompt file": (
        lambda: Path("prompts/train.txt").write_text("\n \n"),
        "prompts",
        ["train.txt holds no prompt"],
    ),
    "missing prompt file": (Path("prompts/train.txt").unlink, "prompts", ["train.txt does not exist"]),
    "prompts that are not UTF-8": (
        lambda: Path("prompts/train.txt").write_bytes(b"a red star\na caf\xe9\n"),
        "prompts",
        ["train.txt is not UTF-8", "0xe9", "line 2", "iconv"],
    ),
    "training prompts in the evaluation": (
        lambda: Path("prompts/evaluation.txt").write_text("a red moon on sand\nother\n"),
        "prompts",
        ["1 prompts stand in both", "a red moon on sand"],
    ),
}


@pytest.fixture
def broken(request: pytest.FixtureRequest, project: Path) -> str:
    del project
    CASES[request.param][0]()
    return request.param


@pytest.mark.parametrize("broken", CASES, indirect=True)
def test_error_names_the_place_and_the_remedy(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, stage, expected = CASES[broken]
    assert main([stage]) == 1
    message = capsys.readouterr().err
    for text in expected:
        assert text in message
    left = [p for p in paths.OUTPUTS.rglob("*") if p.is_file()] if paths.OUTPUTS.exists() else []
    assert left == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "s3://AKIAIOSFODNN7EXAMPLE:hidden@bucket/releases"),
        ("url", "s3://bucket/releases?secret=hidden"),
        ("endpoint_url", "https://user:hidden@s3.example.org"),
        ("endpoint_url", "https://s3.example.org/#hidden"),
        ("endpoint_url", "https://AKIAIOSFODNN7EXAMPLE.example.org"),
    ],
)
def test_credentials_in_parameters_are_refused_and_not_repeated(
    field: str, value: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(Path("params.yaml"), "publish", field, value=value)
    assert main(["prompts"]) == 1
    message = capsys.readouterr().err
    assert f"params.yaml: publish.{field}: this holds what may be credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message
    assert "hidden" not in message
    assert "AKIA" not in message


def test_stores_of_other_kinds_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(Path("params.yaml"), "publish", "url", value="https://bucket/releases")
    edit(Path("params.yaml"), "publish", "endpoint_url", value="s3.example.org")
    assert main(["prompts"]) == 1
    message = capsys.readouterr().err
    assert "publish.url: got 'https://bucket/releases'" in message
    assert "publish.endpoint_url: got 's3.example.org'" in message


def test_failed_fetch_leaves_the_earlier_one(project: Path) -> None:
    assert main(["reference"]) == 0
    before = {path: path.read_bytes() for path in paths.REFERENCE.rglob("*") if path.is_file()}
    corrupt()
    assert main(["reference"]) == 1
    assert {path: path.read_bytes() for path in paths.REFERENCE.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("stage", "limit"), [("reference", 20_000), ("embeddings", 1200)])
def test_full_disk_is_told_and_leaves_nothing(stage: str, limit: int, project: Path) -> None:
    """The operating system refuses larger files, as a full disk would, in the middle of a file of weights."""
    for earlier in ("prompts", "reference") if stage == "embeddings" else ():
        assert main([earlier]) == 0

    def refuse() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-B", "-m", "distar", stage]  # or Python would leave cut bytecode of this very code
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=refuse, check=False)
    assert result.returncode == 1
    assert f"StorageError: no space left to write outputs/{stage}" in result.stderr
    assert "Traceback" not in result.stderr
    assert [p for p in (paths.OUTPUTS / stage).rglob("*") if p.is_file()] == []


def test_second_trainer_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    from distar.params import load_params
    from distar.stages.train import run_fingerprint

    fingerprint = run_fingerprint(load_params())
    with WorkDirectory(paths.work_root("train") / fingerprint[:16], fingerprint):
        assert main(["train"]) == 1
    message = capsys.readouterr().err
    assert f"is held by process {os.getpid()}" in message
    assert not paths.GENERATOR.exists()
