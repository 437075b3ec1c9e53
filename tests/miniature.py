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
from ruamel.yaml import YAML
from safetensors.torch import save_model
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distar.hashing import pin_file, pin_folder
from distar.rewards.attributes import AttributeClassifier
from tests.references import REPOSITORY, TOKENIZER, WIDTH, make_unet, save_sd15, text_config

ATTRIBUTES = {"shape": ["star", "moon"], "colour": ["red", "teal"], "background": ["white", "sand"]}


def save_models(folder: Path) -> None:
    """Write a reference, an initial generator, two CLIP rewards and a judge, all with random weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    save_sd15(folder / "reference")
    (folder / "reference" / "LICENSE.md").write_text("You may.\n")
    make_unet(cross_attention_dim=WIDTH).save_pretrained(folder / "initial_generator")
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
    """Write a project folder around miniature models: parameters, profile, lock, prompts and the real dvc.yaml."""
    shutil.copytree(models, folder / "models")
    profile = YAML().load(REPOSITORY / "profiles" / "tiny.yaml")
    profile["embeddings"] |= {"batch_size": 2, "shard_size": 2}
    profile["runtime"]["num_threads"] = 1
    sources = [profile["reference"], profile["initial_generator"], *profile["rewards"].values()]
    for source in sources:
        source["source"] = source["source"].replace("models/tiny", "models")
    for name in ("train", "evaluation"):
        profile["prompts"][name]["source"] = f"file://prompts/{name}.txt"
    profile["train"] |= {
        "num_steps": 4,
        "batch_size": 4,
        "micro_batch_size": 4,
        "frozen_micro_batch_size": 2,
        "reward_micro_batch_size": 1,
        "checkpoint_every": 2,
    }
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
    publish = {"url": "file://published", "endpoint_url": None, "signing_key": None, "trusted_keys": []}
    retrain = YAML().load(REPOSITORY / "params.yaml")["retrain"] | {"schedule": None, "watch": None}
    shared = {"profile": "mini", "seed": 0, "publish": publish, "models": {"mirror": None}, "retrain": retrain}
    YAML().dump(shared, folder / "params.yaml")
    pin_sources(folder)
    text = (REPOSITORY / "dvc.yaml").read_text().replace("      - models/tiny/prompts\n", "")
    (folder / "dvc.yaml").write_text(text)
    (folder / "requirements").mkdir()
    shutil.copy(REPOSITORY / "requirements" / "lock.txt", folder / "requirements")
    (folder / "prompts").mkdir()
    (folder / "prompts" / "train.txt").write_text(
        "a red star on a white background\na teal moon against sand\na red moon on sand\n"
    )
    evaluation = "\n".join(f"a red star, white backdrop {i}" for i in range(7)) + "\n"
    (folder / "prompts" / "evaluation.txt").write_text(evaluation)
    return folder


def pin_sources(folder: Path) -> None:
    """Pin the model files that the project's profile names, as they are, and state their licences."""
    state_licences(folder)
    profile = YAML(typ="safe").load(folder / "profiles" / "mini.yaml")
    sources = [profile["reference"], profile["initial_generator"], *profile["rewards"].values()]
    pins = {}
    for source in (entry["source"] for entry in sources if entry.get("source", "").startswith("file://")):
        path = folder / source.removeprefix("file://")
        pins[source] = pin_folder(path) if path.is_dir() else {path.name: pin_file(path)}
    (folder / "profiles" / "mini.lock.json").write_text(json.dumps(pins))


def state_licences(folder: Path) -> None:
    """State a licence of each source of models that the project's profile names, as a changed source needs."""
    path = folder / "profiles" / "mini.yaml"
    profile = YAML(typ="safe").load(path)
    sections = [profile["reference"], profile["initial_generator"], *profile["rewards"].values()]
    sections.append(profile["evaluate"]["fid"] or {})
    sources = {value for section in sections for value in section.values() if "://" in str(value)}
    edit(path, "package", "licences", value=dict.fromkeys(sorted(sources), "apache-2.0"))


def with_pipeline(folder: Path) -> Path:
    """Turn a miniature into a git and DVC project with the real code."""
    for name in ("distar", "flows"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder)
    return git_init(folder, [sys.executable, "-m", "dvc", "init", "-q"])


def with_gain(folder: Path, num_steps: int) -> None:
    """Give a miniature a training that its reward gains by, and a gate that looks at the reward alone."""
    profile = folder / "profiles" / "mini.yaml"
    edit(profile, "train", "num_steps", value=num_steps)
    edit(profile, "train", "reward_scale", value=10.0)
    edit(profile, "train", "generator", "optimizer", "learning_rate", value=1e-3)
    edit(profile, "train", "generator", "ema_decay", value=0.0)
    gate = {
        "min_gain": {"preference": 0.0},
        "max_loss": {"matching": 1000.0, "judge": 1.0},
        "min_diversity_ratio": 0.0,
        "max_saturation_ratio": 1000.0,
        "max_clipped_rise": 1.0,
    }
    edit(folder / "params.yaml", "retrain", "gate", value=gate)


def git_init(folder: Path, *commands: list[str]) -> Path:
    """Turn a folder into a git project, run the commands in it, and commit everything."""
    shutil.copy(REPOSITORY / ".gitignore", folder)
    configuration = {"user.email": "test@example.org", "user.name": "test"}
    configure = [["git", "config", name, value] for name, value in configuration.items()]
    commit = [["git", "add", "-A"], ["git", "commit", "-qm", "Begin"]]
    for command in [["git", "init", "-q", "-b", "main"], *configure, *commands, *commit]:
        subprocess.run(command, cwd=folder, check=True)
    return folder


def git(folder: Path, *arguments: str) -> str:
    """Run git in a project and return what it prints."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def run_dvc(folder: Path, *arguments: str) -> str:
    """Run dvc in a project and return what it prints; `python` in its stages is this interpreter."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def record_of(stage: str, folder: Path = Path()) -> dict[str, Any]:
    """Read the newest record of a stage."""
    records = [json.loads(path.read_text()) for path in (folder / "runs" / stage).glob("*.json")]
    return max(records, key=lambda record: record["ended"])


def edit(path: Path, *keys: str, value: Any) -> None:
    """Set one value of a YAML file."""
    yaml = YAML()
    document = yaml.load(path)
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    yaml.dump(document, path)
