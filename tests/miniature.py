"""A project folder in miniature: the real classes at tiny width with random weights, saved in the hub's layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from ruamel.yaml import YAML
from safetensors.torch import save_model
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from distar.diffusion.families.sd15 import write_pipeline
from distar.hashing import pin_folder
from distar.rewards.attributes import AttributeClassifier

REPOSITORY = Path(__file__).parent.parent
TOKENIZER = REPOSITORY / "models" / "tiny" / "reference" / "tokenizer"
WIDTH, TOKENS = 16, 16
ATTRIBUTES = {"shape": ["star", "moon"], "colour": ["red", "teal"], "background": ["white", "sand"]}


def text_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, WIDTH),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def save_models(folder: Path) -> None:
    """Write a reference, an initial generator, two CLIP rewards and a judge, all with random weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    autoencoder: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(tokenizer)))
    vae = AutoencoderKL(**autoencoder)
    write_pipeline(folder / "reference", vae, text_encoder, tokenizer, make_unet(), scheduler)
    make_unet().save_pretrained(folder / "initial_generator")
    vision = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name in ("preference", "matching"):
        config = CLIPConfig(
            text_config=text_config(tokenizer),
            vision_config={**vision, "image_size": 16, "patch_size": 8},
            projection_dim=WIDTH,
        )
        CLIPModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    (folder / "judge").mkdir()
    save_model(AttributeClassifier([4, 8], ATTRIBUTES), str(folder / "judge" / "model.safetensors"))
    (folder / "judge" / "config.json").write_text(json.dumps({"channels": [4, 8], "attributes": ATTRIBUTES}))


def make_project(folder: Path, models: Path) -> Path:
    """Write a project folder around miniature models: parameters, profile, lock and prompts."""
    shutil.copytree(models, folder / "models")
    profile = YAML().load(REPOSITORY / "profiles" / "tiny.yaml")
    profile["runtime"]["num_threads"] = 1
    sources = [profile["reference"], profile["initial_generator"], *profile["rewards"].values()]
    for source in sources:
        source["source"] = source["source"].replace("models/tiny", "models")
    for name in ("train", "evaluation"):
        profile["prompts"][name]["source"] = f"file://{name}.txt"
    profile["train"] |= {"num_steps": 4, "batch_size": 4, "micro_batch_size": 4, "checkpoint_every": 2}
    profile["train"]["reward_scale"] = 1.0  # tests edit it; they do not depend on how tiny is tuned
    profile["train"]["assistant"]["warmup_steps"] = 2
    profile["train"]["monitors"] |= {
        "log_every": 1,
        "probe_every": 2,
        "num_probe_prompts": 2,
        "num_probe_reference_steps": 2,
        "max_latent_rms_ratio": 1e6,  # random weights have no sane range
        "max_reward_excess": 1e6,
    }
    profile["evaluate"] |= {"batch_size": 3, "num_grid_prompts": 2}
    profile["evaluate"]["reference"]["num_steps"] = 2
    profile["evaluate"]["diversity"] |= {"num_prompts": 2, "num_images_per_prompt": 2}
    (folder / "profiles").mkdir()
    YAML().dump(profile, folder / "profiles" / "mini.yaml")
    shared = {"profile": "mini", "seed": 0, "publish": {"url": "file://published"}, "models": {"mirror": None}}
    YAML().dump(shared, folder / "params.yaml")
    pins = {source["source"]: pin_folder(folder / source["source"].removeprefix("file://")) for source in sources}
    (folder / "profiles" / "mini.lock.json").write_text(json.dumps(pins))
    (folder / "requirements").mkdir()
    shutil.copy(REPOSITORY / "requirements" / "lock.txt", folder / "requirements")
    (folder / "train.txt").write_text(
        "a red star on a white background\na teal moon against sand\na red moon on sand\n"
    )
    (folder / "evaluation.txt").write_text("\n".join(f"a red star, white backdrop {i}" for i in range(7)) + "\n")
    return folder


def with_pipeline(folder: Path) -> Path:
    """Turn a miniature into a git and DVC project with the real dvc.yaml and code."""
    for name in ("distar", "flows"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (REPOSITORY / "dvc.yaml").read_text().replace("models/tiny/prompts", "train.txt")
    (folder / "dvc.yaml").write_text(text)
    shutil.copy(REPOSITORY / ".gitignore", folder)
    commands = [
        ["git", "init", "-q", "-b", "main"],
        ["git", "config", "user.email", "test@example.org"],
        ["git", "config", "user.name", "test"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "Begin"],
    ]
    for command in commands:
        subprocess.run(command, cwd=folder, check=True)
    return folder


def run_dvc(folder: Path, *arguments: str) -> str:
    """Run dvc in a project and return what it prints; `python` in its stages is this interpreter."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def edit(path: Path, *keys: str, value: Any) -> None:
    """Set one value of a YAML file."""
    yaml = YAML()
    document = yaml.load(path)
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    yaml.dump(document, path)
