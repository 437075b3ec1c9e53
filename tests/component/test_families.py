"""Every family through the whole chain, with the real classes at tiny width; plain diffusers draws the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from distar import paths
from distar.__main__ import STAGES, main
from distar.diffusion.families.pipeline import component_class
from distar.embeddings import Embeddings
from distar.errors import ModelFileError
from distar.loading import load_family, load_generator, load_initial_generator
from distar.params import load_params
from tests.miniature import REPOSITORY, edit, pin_sources
from tests.references import REFERENCES, load_plain

GENERATORS = {
    "sd15": {"timestep": 625, "noise_scale": "sigma"},
    "sdxl": {"timestep": 399, "noise_scale": "one"},
    "pixart": {"timestep": 440, "noise_scale": "sigma"},
}
PROFILE = Path("profiles/mini.yaml")


@pytest.fixture(params=REFERENCES)
def family_name(request: pytest.FixtureRequest, project: Path) -> str:
    """Turn the miniature project into one of another family; a generator in DMD2's form: a pickled state dict."""
    name = request.param
    folder = project / "models" / name
    torch.manual_seed(0)
    REFERENCES[name](folder)
    network = "transformer" if name == "pixart" else "unet"
    (weights,) = (folder / network).glob("*.safetensors")
    state = {key: value + 0.01 * torch.randn_like(value) for key, value in load_file(weights).items()}
    torch.save(state, project / "models" / f"{name}_one_step.bin")
    variant = "fp16" if name == "sdxl" else None
    edit(PROFILE, "reference", value={"family": name, "source": f"file://models/{name}", "variant": variant})
    edit(PROFILE, "initial_generator", "source", value=f"file://models/{name}_one_step.bin")
    for key, value in GENERATORS[name].items():
        edit(PROFILE, "train", "generator", key, value=value)
    pin_sources(project)
    return name


def test_whole_chain_and_plain_diffusers(family_name: str, project: Path) -> None:
    for stage in STAGES:
        assert main([stage]) == 0, stage

    params = load_params()
    cpu = torch.device("cpu")
    family = load_family(params, cpu)
    generator = load_generator(params, family, paths.GENERATOR_WEIGHTS)
    initial = load_initial_generator(params, family)
    assert any(
        not torch.equal(trained, started)
        for trained, started in zip(generator.parameters(), initial.parameters(), strict=True)
    )
    prompts = ["a red star, white backdrop 0", "a red star, white backdrop 5"]
    encoded = Embeddings(paths.EVALUATION_EMBEDDINGS)[torch.tensor([0, 5])]
    noise = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = family.decode(generator(noise, encoded))

    pipeline = load_plain(paths.RELEASE)
    latents = noise
    if generator.noise_scale == "sigma":
        latents = noise * (1 - pipeline.scheduler.alphas_cumprod[generator.timestep]).sqrt()
    theirs = pipeline(
        prompts,
        latents=latents,
        timesteps=[generator.timestep],
        guidance_scale=0,
        output_type="pt",
        **params.profile.reference.call_options,
    ).images
    assert type(pipeline.scheduler).__name__ == "LCMScheduler"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_cards_snippet_draws_without_this_project(family_name: str, project: Path) -> None:
    for stage in STAGES:
        assert main([stage]) == 0, stage
    assert_snippet_draws_the_first_prompt(project)


def assert_snippet_draws_the_first_prompt(project: Path) -> None:
    card = (paths.RELEASE / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    snippet = snippet.replace("path/to/this/folder", str((project / paths.RELEASE).resolve()))
    blocked = "import sys; sys.modules['distar'] = None\n"  # an import of it would fail
    subprocess.run([sys.executable, "-I", "-c", blocked + snippet], cwd=project, check=True, capture_output=True)

    params = load_params()
    family = load_family(params, torch.device("cpu"))
    generator = load_generator(params, family, paths.GENERATOR_WEIGHTS)
    noise = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = family.decode(generator(noise, Embeddings(paths.EVALUATION_EMBEDDINGS)[torch.tensor([0])]))
    theirs = torch.from_numpy(np.array(Image.open(project / "picture.png"))).permute(2, 0, 1) / 255
    assert (ours[0] - theirs).abs().max() <= 1 / 255


@pytest.mark.slow
def test_the_cards_snippet_draws_any_prompt(project: Path) -> None:
    prompt = """\U0001f31f "it's" a \\ {{ x }} ``` \u202e red star on a white background"""
    (project / "prompts" / "evaluation.txt").write_text(f"{prompt}\na red star on white\n", encoding="utf-8")
    for stage in STAGES:
        assert main([stage]) == 0, stage
    assert_snippet_draws_the_first_prompt(project)


def test_nothing_is_trained_in_no_steps(project: Path) -> None:
    """Published weights are evaluated and packaged as they are."""
    edit(PROFILE, "train", "num_steps", value=0)
    for stage in STAGES:
        assert main([stage]) == 0, stage
    (initial,) = paths.INITIAL_GENERATOR.glob("*.safetensors")
    released = load_file(paths.RELEASE / "unet" / initial.name)
    assert all(torch.equal(released[name], value) for name, value in load_file(initial).items())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, "Missing key"),
        ({"conv_in.weight": torch.zeros(1)}, "size mismatch for conv_in.weight"),
    ],
)
def test_foreign_weights_are_refused(
    weights: dict[str, Any], expected: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(weights, project / "models" / "other.bin")
    edit(PROFILE, "initial_generator", "source", value="file://models/other.bin")
    pin_sources(project)
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    assert main(["train"]) == 1
    message = capsys.readouterr().err
    assert "other.bin does not hold the reference's network" in message
    assert expected in message


@pytest.mark.parametrize("entry", [None, ["os", "system"], ["diffusers"]])
def test_components_are_classes_of_known_libraries(entry: object, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": entry}))
    with pytest.raises(ModelFileError, match=r"unet is .*, expected a class of diffusers or transformers"):
        component_class(tmp_path, "unet")


def test_adapters_with_everything_that_saves_memory(family_name: str, project: Path, tmp_path: Path) -> None:
    """LoRA, bf16, activations computed twice, states of 8 bits: resumed it is the same, and whole where it is read."""
    lora = {"rank": 2, "alpha": 4, "target_modules": ["to_q", "to_v"]}
    edit(PROFILE, "train", "generator", "lora", value=lora)
    edit(PROFILE, "train", "generator", "optimizer", "learning_rate", value=1e-2)
    edit(PROFILE, "train", "assistant", "optimizer", "kind", value="adamw_8bit")
    for name, value in {"precision": "bf16", "gradient_checkpointing": "all", "channels_last": True}.items():
        edit(PROFILE, "train", name, value=value)
    edit(PROFILE, "train", "micro_batch_size", value=2)
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / ".venv" / "8bit"), "DISTAR_WORK_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "distar", "train"], check=True, env=environment)
    (weights,) = paths.GENERATOR_WEIGHTS.glob("*.safetensors")
    trained = load_file(weights)

    checkpoints = sorted(tmp_path.glob("*/iteration-*.pt"))
    state = torch.load(checkpoints[-1], weights_only=True)
    assert all("lora" in name for name in state["weights"]["generator"])
    moments = tree_leaves(state["optimizers"]["assistant"]["state"])
    assert torch.uint8 in {moment.dtype for moment in moments if isinstance(moment, torch.Tensor)}
    checkpoints[-1].unlink()
    subprocess.run([sys.executable, "-m", "distar", "train"], check=True, env=environment)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in load_file(weights).items())

    params = load_params()
    initial = load_initial_generator(params, load_family(params, torch.device("cpu"))).denoiser.network.state_dict()
    assert trained.keys() == initial.keys()
    for name, tensor in trained.items():
        adapted = name.endswith(("to_q.weight", "to_v.weight"))
        change = (tensor - initial[name]).double()
        assert (torch.linalg.matrix_rank(change, rtol=1e-4) == 2) if adapted else not change.any(), name
