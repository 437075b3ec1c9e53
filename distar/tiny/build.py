"""`distar tiny build`: carry out the recipe in `models/tiny/recipe.yaml`, step by step, resumably.

From autoencoder and tokenizer come the reference, the judge's two models and the preference reward, in any order or
side by side; from those the initial generator; `pin` writes the sha256 of all of them into the profile's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distar.errors import ParameterError
from distar.fetching import write_pins
from distar.hashing import pin_folder
from distar.locking import take_lock
from distar.params import lock_path
from distar.seeding import derive_seed
from distar.shared_params import read_strict
from distar.tiny.autoencoder import build_autoencoder
from distar.tiny.initial_generator import build_initial_generator
from distar.tiny.judge import build_classifier, build_matching
from distar.tiny.preference import build_preference
from distar.tiny.recipe import Kitchen, Recipe
from distar.tiny.reference import build_reference
from distar.tiny.tokenizer import build_tokenizer
from distar.tiny.world import TEMPLATES, split_subjects

MODELS_DIR = Path("models/tiny")
WORK_DIR = Path(".distar/tiny")


def write_prompts(kitchen: Kitchen) -> None:
    """Write the prompt files: training in every template, evaluation in one each, in shuffled order."""
    rng = np.random.default_rng(derive_seed(kitchen.recipe.seed, "prompts"))
    train = [s.caption(template) for s in split_subjects("train") for template in range(len(TEMPLATES))]
    evaluation = [
        s.caption(int(rng.integers(len(TEMPLATES)))) for s in split_subjects("evaluation") + split_subjects("unseen")
    ]
    folder = kitchen.models_dir / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, captions in (("train", train), ("evaluation", evaluation)):
        text = "\n".join(captions[i] for i in rng.permutation(len(captions)))
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def pin(kitchen: Kitchen) -> None:
    """Pin the sha256 of every model file in the profile's lock, which the fetching stages check."""
    folders = ("reference", "initial_generator", "preference", "matching", "judge")
    pins = {f"file://{kitchen.models_dir / name}": pin_folder(kitchen.models_dir / name) for name in folders}
    write_pins(pins, lock_path("tiny"))


STEPS: dict[str, Callable[[Kitchen], None]] = {
    "prompts": write_prompts,
    "autoencoder": build_autoencoder,
    "tokenizer": build_tokenizer,
    "reference": build_reference,
    "classifier": build_classifier,
    "preference": build_preference,
    "matching": build_matching,
    "initial_generator": build_initial_generator,
    "pin": pin,
}


def build(only: str | None = None, models_dir: Path = MODELS_DIR, work_dir: Path = WORK_DIR) -> None:
    """Carry out the recipe, or one step of it; a step that was interrupted goes on where it stood.

    Raises:
        ParameterError: the recipe is wrong, or `only` is no step of it.
        WorkDirectoryError: another process is at the same step.
    """
    if only is not None and only not in STEPS:
        raise ParameterError(f"tiny build --only: got {only!r}; the steps are {', '.join(STEPS)}")
    recipe = read_strict(models_dir / "recipe.yaml", Recipe)
    torch.set_num_threads(recipe.num_threads)
    torch.set_flush_denormal(True)
    kitchen = Kitchen(recipe, models_dir, work_dir)
    for name, step in STEPS.items():
        if name == only or (only is None and not (work_dir / f"{name}.done").exists()):
            with take_lock(work_dir / f"{name}.lock"):
                step(kitchen)
                (work_dir / f"{name}.done").touch()
