"""Is the tiny reference worth aligning? The judge's verdict on its many-step pictures of held-out captions."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distar.evaluation.sampling import Requests, draw_images, many_steps
from distar.params import PROFILES_DIR, Profile, read_strict
from distar.rewards.attributes import Attributes
from distar.tiny.world import parse_caption, split_subjects


def check(models_dir: Path = Path("models/tiny")) -> dict[str, float]:
    """Draw every evaluation caption with the reference and print the share that the judge finds right.

    Returns:
        The shares, for all captions and for those whose combination no model was trained on.
    """
    profile = read_strict(PROFILES_DIR / "tiny.yaml", Profile)
    torch.set_num_threads(profile.runtime.num_threads)
    torch.set_flush_denormal(profile.runtime.flush_denormal)
    family = profile.reference.build(models_dir / "reference")
    judge = Attributes(kind="attributes", source="file://judge").build(models_dir / "judge")
    captions = (models_dir / "prompts" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    sampling = profile.evaluate.reference
    draw = many_steps(family.reference(), sampling.num_steps, sampling.guidance_scale)
    requests = Requests.make(captions, 1, family.latent_shape, 0, "check")
    images = draw_images("reference", draw, family, requests, profile.evaluate.batch_size)
    with torch.no_grad():
        right = judge(images.float() / 255, captions).bool().tolist()

    unseen = set(split_subjects("unseen"))
    groups = {
        "all captions": right,
        "combinations never trained on": [
            r for r, caption in zip(right, captions, strict=True) if parse_caption(caption) in unseen
        ],
    }
    table = Table("", "captions", "all three attributes right")
    for name, results in groups.items():
        table.add_row(name, str(len(results)), f"{100 * sum(results) / len(results):.1f} %")
    Console().print(table)
    return {name: sum(results) / len(results) for name, results in groups.items()}
