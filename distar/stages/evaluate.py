"""Stage `evaluate`: the reference, the initial and the trained generator on prompts that training never saw."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distar import paths
from distar.atomic import written_whole
from distar.diffusion.families import Family
from distar.evaluation.metrics import Estimate, WinRate, pairwise_distance, picture_statistics
from distar.evaluation.report import Lineage, Report, SystemPictures, write_grid, write_page
from distar.evaluation.sampling import Draw, Requests, draw_images, many_steps, one_step
from distar.hashing import sha256_of
from distar.lineage.record import LOCK_PATH, recorded
from distar.loading import load_family, load_generator, load_initial_generator, load_rewards
from distar.params import Params, load_params
from distar.prompts import load_prompts
from distar.rewards.clip import ClipReward
from distar.rewards.reward import Reward
from distar.runtime import prepare_torch

CANDIDATE, BASELINES = "generator", ("initial", "reference")


def run() -> None:
    """Draw, score, compare, and write metrics, scores and the report."""
    params = load_params()
    settings = params.profile.evaluate
    with recorded("evaluate") as record:
        accelerator = prepare_torch(params.profile.runtime)
        family = load_family(params, accelerator.device)
        rewards = load_rewards(params, accelerator.device)
        prompts = load_prompts(paths.EVALUATION_PROMPTS)
        systems: dict[str, Draw] = {
            CANDIDATE: one_step(load_generator(params, family, paths.GENERATOR_WEIGHTS)),
            "initial": one_step(load_initial_generator(params, family)),
            "reference": many_steps(
                family.reference(), settings.reference.num_steps, settings.reference.guidance_scale
            ),
        }
        requests = Requests.make(prompts, 1, family.latent_shape, params.seed, "evaluation")
        repeated = Requests.make(
            prompts[: settings.diversity.num_prompts],
            settings.diversity.num_images_per_prompt,
            family.latent_shape,
            params.seed,
            "diversity",
        )
        images: dict[str, Tensor] = {}
        scores: dict[str, dict[str, Tensor]] = {}
        metrics: dict[str, object] = {}
        for name, draw in systems.items():
            images[name] = draw_images(name, draw, family, requests, settings.batch_size)
            several = draw_images(f"{name} again", draw, family, repeated, settings.batch_size)
            scores[name] = _score(images[name], prompts, rewards, params, family)
            diversity = _diversity(several, rewards[settings.diversity.features], params, family)
            metrics[name] = _summary(scores[name], images[name], diversity, params)
        compared = {name: values[settings.compare_by] for name, values in scores.items()}
        metrics["win_rate"] = {
            f"vs_{name}": vars(WinRate.of(compared[CANDIDATE], compared[name])) for name in BASELINES
        }
        _write(params, prompts, images, scores, metrics)
        record["device"] = str(accelerator.device)


@torch.no_grad()
def _score(
    images: Tensor, prompts: Sequence[str], rewards: dict[str, Reward], params: Params, family: Family
) -> dict[str, Tensor]:
    settings = params.profile.evaluate
    names = [*settings.rewards, *([settings.judge] if settings.judge else [])]
    columns: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(prompts), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        batch = images[part].to(family.device).float() / 255
        for name in names:
            columns[name].append(rewards[name](batch, prompts[part]).cpu())
    return {name: torch.cat(values) for name, values in columns.items()}


@torch.no_grad()
def _diversity(images: Tensor, features: Reward, params: Params, family: Family) -> Tensor:
    if not isinstance(features, ClipReward):
        raise TypeError(f"evaluate.diversity.features must be a CLIP reward, not {type(features).__name__}")
    settings = params.profile.evaluate
    embedded = [
        features.image_features(batch.to(family.device).float() / 255) for batch in images.split(settings.batch_size)
    ]
    return pairwise_distance(torch.cat(embedded), settings.diversity.num_images_per_prompt)


def _summary(scores: dict[str, Tensor], images: Tensor, diversity: Tensor, params: Params) -> dict[str, object]:
    settings = params.profile.evaluate
    summary: dict[str, object] = {"rewards": {name: vars(Estimate.of(scores[name])) for name in settings.rewards}}
    if settings.judge:
        summary["judge_accuracy"] = scores[settings.judge].double().mean().item()
    summary["diversity"] = diversity.double().mean().item()
    statistics = [picture_statistics(batch.float() / 255) for batch in images.split(settings.batch_size)]
    for name in statistics[0]:
        summary[name] = torch.cat([part[name] for part in statistics]).double().mean().item()
    return summary


def _write(
    params: Params,
    prompts: Sequence[str],
    images: dict[str, Tensor],
    scores: dict[str, dict[str, Tensor]],
    metrics: dict[str, object],
) -> None:
    settings = params.profile.evaluate
    count = settings.num_grid_prompts
    spread = [i * len(prompts) // count for i in range(count)]
    steps, scale = settings.reference.num_steps, settings.reference.guidance_scale
    pictures = [
        SystemPictures("reference", f"reference, {steps} steps, guidance {scale:g}", images["reference"][spread]),
        SystemPictures("initial", "initial generator, one step", images["initial"][spread]),
        SystemPictures(CANDIDATE, "DI* generator, one step", images[CANDIDATE][spread]),
    ]
    report = Report(
        profile=params.root.profile,
        notice=params.profile.package.notice,
        prompts=[prompts[i] for i in spread],
        pictures=pictures,
        metrics=metrics,
        compare_by=settings.compare_by,
        updates_path=paths.UPDATES_LOG,
        probes_path=paths.PROBES_LOG,
        lineage=_lineage(params),
    )
    with written_whole(paths.REPORTS) as folder:
        folder.mkdir()
        write_page(report, folder / paths.REPORT_PAGE.name)
        write_grid(report, folder / paths.SAMPLE_GRID.name)
        _write_scores(prompts, scores, folder / paths.SCORES.name)
    with written_whole(paths.METRICS) as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _write_scores(prompts: Sequence[str], scores: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Write every system's score of every prompt, so that pairs can be compared later."""
    columns = {f"{system}_{name}": values.tolist() for system in scores for name, values in scores[system].items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", *columns])
        writer.writerows(zip(prompts, *columns.values(), strict=True))


def _lineage(params: Params) -> Lineage:
    card = json.loads(paths.PROMPTS_CARD.read_text(encoding="utf-8"))
    network = next(iter(sorted(paths.GENERATOR_WEIGHTS.glob("*.safetensors"))))
    return Lineage(
        parameters=params.model_dump(mode="json"),
        hashes={
            "training prompts": card["train"]["sha256"],
            "evaluation prompts": card["evaluation"]["sha256"],
            "dependency lock": sha256_of(LOCK_PATH),
            "trained weights": sha256_of(network),
            **{
                path.relative_to(paths.OUTPUTS).as_posix(): sha256_of(path)
                for folder in (paths.REFERENCE, paths.INITIAL_GENERATOR, paths.REWARDS)
                for path in sorted(folder.rglob("*.safetensors"))
            },
        },
    )
