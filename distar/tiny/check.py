"""Are the tiny models worth working with? Each is asked about combinations that none of them was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from distar.evaluation.sampling import Requests, draw_images, many_steps
from distar.params import Profile
from distar.rewards.clip import ClipReward
from distar.rewards.params import Attributes, CLIPScore, PickScore
from distar.seeding import derive_seed
from distar.shared_params import PROFILES_DIR, read_strict
from distar.tiny.annotator import utility
from distar.tiny.dataset import Pictures, render_pictures
from distar.tiny.world import TEMPLATES, Subject, parse_caption, split_subjects, subjects

_PICTURES_PER_SUBJECT = 10


def check(models_dir: Path = Path("models/tiny")) -> dict[str, float]:
    """Ask the judge about real pictures, the rewards about pairs of them, and the judge about the reference's pictures.

    Returns:
        Each question and its answer, a share of 1.
    """
    profile = read_strict(PROFILES_DIR / "tiny.yaml", Profile)
    torch.set_num_threads(profile.runtime.num_threads)
    torch.set_flush_denormal(profile.runtime.flush_denormal)
    judge = Attributes(kind="attributes", source="file://judge").build(models_dir / "judge")
    matching = CLIPScore(kind="clip_score", source="file://matching").build(models_dir / "matching")
    preference = PickScore(kind="pickscore", source="file://preference").build(models_dir / "preference")

    rng = np.random.default_rng(derive_seed(0, "check"))
    shown = split_subjects("unseen")
    pictures = render_pictures(shown, _PICTURES_PER_SUBJECT, derive_seed(0, "check"))
    others = render_pictures(tuple(_change_one(s, rng) for s in shown), _PICTURES_PER_SUBJECT, derive_seed(1, "check"))
    images, other_images = (p.images(torch.arange(len(p))) for p in (pictures, others))
    captions = [scene.subject.caption(i // 2 % len(TEMPLATES)) for i, scene in enumerate(pictures.scenes)]

    def prefers_the_right_picture(reward: ClipReward) -> float:
        return (reward(images, captions) > reward(other_images, captions)).double().mean().item()

    with torch.no_grad():
        results = {
            "judge: real pictures seen right": judge(images, captions).mean().item(),
            "matching: the right picture beats one with an attribute changed": prefers_the_right_picture(matching),
            "preference: the same": prefers_the_right_picture(preference),
            "preference: sides with the annotator on two right pictures": _annotator_agreement(
                preference, pictures, images, captions
            ),
        }

    text_encoder = profile.reference.build_text_encoder(models_dir / "reference")
    family = profile.reference.build(models_dir / "reference", text_encoder.encode_null())
    prompts = (models_dir / "prompts" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    sampling = profile.evaluate.reference
    draw = many_steps(family.reference(), sampling.num_steps, sampling.guidance_scale)
    requests = Requests.make(prompts, text_encoder.encode(prompts), 1, family.latent_shape, 0, "check")
    drawn = draw_images("reference", draw, family, requests, profile.evaluate.batch_size)
    with torch.no_grad():
        right = judge(drawn.float() / 255, prompts).bool()
    unseen = torch.tensor([parse_caption(prompt) in set(split_subjects("unseen")) for prompt in prompts])
    results[f"reference: {len(prompts)} evaluation captions drawn right"] = right.double().mean().item()
    results[f"reference: {int(unseen.sum())} of them, never trained on"] = right[unseen].double().mean().item()
    return results


def table(results: dict[str, float]) -> Table:
    """Lay the results out for reading."""
    rows = Table("on combinations that no model was trained on, unless said otherwise", "share")
    for name, share in results.items():
        rows.add_row(name, f"{100 * share:.1f} %")
    return rows


def _change_one(subject: Subject, rng: np.random.Generator) -> Subject:
    neighbours = [
        other
        for other in subjects()
        if sum(getattr(other, name) != getattr(subject, name) for name in ("shape", "colour", "background")) == 1
    ]
    return neighbours[rng.integers(len(neighbours))]


def _annotator_agreement(reward: ClipReward, pictures: Pictures, images: Tensor, captions: list[str]) -> float:
    """Tell how often the reward prefers, of two pictures of one subject, the one that the annotator finds better."""
    scores = reward(images, captions).view(-1, 2)
    utilities = torch.tensor([utility(scene.subject, scene, corruption=0.0) for scene in pictures.scenes]).view(-1, 2)
    return ((scores[:, 0] > scores[:, 1]) == (utilities[:, 0] > utilities[:, 1])).double().mean().item()
