"""A profile whose every input is on the hub: lock, then the whole chain, as on a GPU box with a network."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from distar import paths
from distar.__main__ import STAGES, main
from distar.bench.published import save_hpsv2
from distar.fetching import read_pins
from distar.params import lock_path
from distar.prompts import HPSV2_STYLES, load_labels, load_prompts
from tests.integration.hub import REVISION, Hub
from tests.miniature import edit, state_licences
from tests.published import save_image_reward
from tests.references import load_plain, save_sdxl

PROFILE = Path("profiles/mini.yaml")


def hub_source(name: str) -> str:
    return f"hf://owner/{name}@{REVISION}"


def publish(hub: Hub, name: str, folder: Path) -> str:
    """Put a folder on the hub and return its source."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.repositories[f"models/owner/{name}"] = files | {"README.md": b"not wanted", "model.bin": b"not wanted either"}
    return hub_source(name)


@pytest.fixture
def on_the_hub(hub: Hub, project: Path, tmp_path: Path) -> Hub:
    """Move everything that the project needs to the hub: SDXL, a one-step checkpoint, rewards and prompt sets."""
    torch.manual_seed(0)
    save_sdxl(tmp_path / "sdxl")
    (weights,) = (tmp_path / "sdxl" / "unet").glob("*.safetensors")
    one_step = {name: value + 0.01 * torch.randn_like(value) for name, value in load_file(weights).items()}
    content = io.BytesIO()
    torch.save(one_step, content)
    hub.repositories["models/owner/one-step"] = {"one_step_unet_fp16.bin": content.getvalue(), "other.bin": b"other"}
    save_hpsv2(tmp_path / "hps")
    save_image_reward(tmp_path / "ir")
    rewards = {
        "preference": {"kind": "pickscore", "source": publish(hub, "pick", project / "models" / "preference")},
        "matching": {"kind": "clip_score", "source": publish(hub, "clip", project / "models" / "matching")},
        "hps": {"kind": "hpsv2", "source": publish(hub, "hps", tmp_path / "hps"), "version": "2.1", "antialias": True},
        "ir": {
            "kind": "image_reward",
            "source": publish(hub, "ir", tmp_path / "ir" / "model"),
            "vocabulary": publish(hub, "bert", tmp_path / "ir" / "vocabulary"),
        },
    }
    table = pa.table({"caption": ["a red star on sand", "a teal moon", "a red star, on sand!", "a red moon on white"]})
    content = io.BytesIO()
    pq.write_table(table, content)
    hub.repositories["datasets/owner/captions"] = {"data/train.parquet": content.getvalue()}
    hub.repositories["datasets/owner/benchmark"] = {
        f"benchmark/{style}.json": json.dumps([f"a red star in {style} {i}" for i in range(2)]).encode()
        for style in HPSV2_STYLES
    }

    edit(
        PROFILE,
        "reference",
        value={"family": "sdxl", "source": publish(hub, "sdxl", tmp_path / "sdxl"), "variant": "fp16"},
    )
    edit(PROFILE, "initial_generator", "source", value=f"{hub_source('one-step')}/one_step_unet_fp16.bin")
    edit(PROFILE, "rewards", value=rewards)
    for key, value in {
        "source": f"hf://datasets/owner/captions@{REVISION}/data/train.parquet",
        "format": "parquet",
        "column": "caption",
    }.items():
        edit(PROFILE, "prompts", "train", key, value=value)
    for key, value in {
        "source": f"hf://datasets/owner/benchmark@{REVISION}/benchmark",
        "format": "hpsv2",
        "drop_duplicates": False,
    }.items():
        edit(PROFILE, "prompts", "evaluation", key, value=value)
    edit(PROFILE, "train", "generator", "timestep", value=399)
    edit(PROFILE, "train", "generator", "noise_scale", value="one")
    edit(PROFILE, "train", "rewards", value={"ir": 1.0, "hps": 10.0})
    edit(PROFILE, "train", "held_out_rewards", value=["preference"])
    for key, value in {"protocol": "hpsv2", "rewards": ["hps", "ir"], "compare_by": "hps", "judge": None}.items():
        edit(PROFILE, "evaluate", key, value=value)
    state_licences(project)
    lock_path("mini").unlink()
    return hub


def test_lock_then_the_whole_chain(on_the_hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts"]) == 1
    assert "distar models lock" in capsys.readouterr().err
    assert main(["models", "lock"]) == 0
    pinned = {name for files in read_pins(lock_path("mini")).values() for name in files}
    assert not pinned & {"README.md", "model.bin", "other.bin"}
    for stage in STAGES:
        assert main([stage]) == 0, stage
    assert main(["models", "verify"]) == 0

    assert load_prompts(paths.TRAIN_PROMPTS) == ("a red star on sand", "a teal moon", "a red moon on white")
    assert set(load_labels(paths.EVALUATION_PROMPTS)) == set(HPSV2_STYLES)
    metrics = json.loads(paths.METRICS.read_text())
    styles = metrics["generator"]["by_label"]
    assert set(styles) == set(HPSV2_STYLES)
    mean = sum(styles[style]["hps"]["mean"] for style in HPSV2_STYLES) / 4
    assert metrics["generator"]["rewards"]["hps"]["mean"] == pytest.approx(mean, rel=1e-6)
    page = paths.REPORT_PAGE.read_text()
    assert "published" in page  # HPSv2.1 on SDXL: the paper's rows stand beside ours
    assert "SD3.5" in page
    pipeline = load_plain(paths.RELEASE)
    image = pipeline("a red star", timesteps=[399], guidance_scale=0, num_inference_steps=1, output_type="pt").images[0]
    assert image.shape == (3, 16, 16)


def test_offline_from_a_mirror(on_the_hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cluster without the internet fetches all from the mirror that was filled where there is one."""
    edit(Path("params.yaml"), "models", "mirror", value=f"file://{tmp_path / 'mirror'}")
    assert main(["models", "lock"]) == 0
    assert main(["models", "mirror"]) == 0
    on_the_hub.repositories.clear()
    monkeypatch.setenv("DISTAR_DOWNLOADS", str(tmp_path / "nothing-yet"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(on_the_hub.requests)
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0, stage
    assert len(on_the_hub.requests) == asked
