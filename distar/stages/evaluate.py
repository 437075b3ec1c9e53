"""Stage `evaluate`: measure the trained generator, compare it with the baseline, and report."""

from __future__ import annotations

import csv
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from distar import paths
from distar.atomic import written_whole
from distar.documents import content_of, read_json, validated
from distar.errors import DistarError
from distar.evaluating import evaluation_fingerprint, load_evaluation
from distar.evaluation.cost import DrawingCost
from distar.evaluation.measuring import Evaluation, Measured, measure, summarise
from distar.evaluation.metrics import WinRate
from distar.evaluation.parts import work_directory
from distar.evaluation.published import Comparison, Ours, compare_with_published
from distar.evaluation.report import Lineage, Report, SystemPictures, write_grid, write_page
from distar.evaluation.sampling import one_step
from distar.evaluation.summary import read_card
from distar.hashing import sha256_of
from distar.lineage.device import describe_device
from distar.lineage.record import LOCK_PATH, recorded
from distar.loading import load_generator
from distar.params import Params, load_params
from distar.rewards.clip import ClipReward
from distar.runtime import prepare_torch

CANDIDATE, BASELINES = "generator", ("initial", "reference")


class _Lengths(TypedDict):
    num_cut: int


class _EmbeddingsCard(TypedDict):
    """What is read here of what the stage `embeddings` writes beside its vectors."""

    evaluation: dict[str, _Lengths]


def run() -> None:
    """Draw, score, compare, and write metrics, scores and the report; goes on where it was killed."""
    params = load_params()
    with recorded("evaluate") as record:
        accelerator = prepare_torch(params.profile.runtime, params.profile.evaluate.precision)
        evaluation = load_evaluation(params, accelerator)
        draw = one_step(load_generator(params, evaluation.family, paths.GENERATOR_WEIGHTS))
        cost = DrawingCost(accelerator.device)
        fingerprint = evaluation_fingerprint(params, accelerator.device, [paths.GENERATOR_WEIGHTS])
        with work_directory(fingerprint, accelerator) as work_dir:
            parts = measure(CANDIDATE, draw, evaluation, work_dir, cost)
            if accelerator.is_main_process:
                _write(params, evaluation, summarise(parts, evaluation))
        record |= {"device": describe_device(accelerator.device), "seeds": {"seed": params.seed}}
        record["drawing"] = {CANDIDATE: cost.figures()}
    accelerator.end_training()


def _write(params: Params, evaluation: Evaluation, candidate: Measured) -> None:
    """Compare with the baseline and write everything that there is to look at."""
    systems = {CANDIDATE: candidate} | {name: Measured.read(paths.BASELINE / name) for name in BASELINES}
    metrics = _metrics(evaluation, systems)
    with written_whole(paths.REPORTS) as folder:
        folder.mkdir()
        report = _report(params, evaluation, systems, metrics)
        write_page(report, folder / paths.REPORT_PAGE.name)
        write_grid(report, folder / paths.SAMPLE_GRID.name)
        _write_scores(evaluation, systems, folder / paths.SCORES.name)
    with written_whole(paths.METRICS) as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _metrics(evaluation: Evaluation, systems: dict[str, Measured]) -> dict[str, Any]:
    """Gather the summaries, and the generator's win rates: by every reward, and by the one to compare by."""
    scores = {name: measured.scores for name, measured in systems.items()}
    win_rates = {
        f"vs_{baseline}": {
            reward: vars(WinRate.of(scores[CANDIDATE][reward], scores[baseline][reward]))
            for reward in evaluation.params.rewards
        }
        for baseline in BASELINES
    }
    return {
        **{name: measured.summary for name, measured in systems.items()},
        "win_rate": {name: rates[evaluation.params.compare_by] for name, rates in win_rates.items()},
        "win_rates": win_rates,
        "cut_prompts": _cut_prompts(evaluation),
    }


def _cut_prompts(evaluation: Evaluation) -> dict[str, int]:
    """Count the prompts that are longer than what the reference's tokenizers and the rewards read of them."""
    path = paths.EMBEDDINGS_CARD
    content = read_json(content_of(path, DistarError, "run `dvc repro embeddings`"), str(path), DistarError)
    tokenizers = validated(_EmbeddingsCard, content, str(path), DistarError)["evaluation"]
    rewards = {name: evaluation.scorers[name].count_cut(evaluation.prompts) for name in evaluation.scored}
    return {name: lengths["num_cut"] for name, lengths in tokenizers.items()} | rewards


def _report(params: Params, evaluation: Evaluation, systems: dict[str, Measured], metrics: dict[str, Any]) -> Report:
    settings = params.profile.evaluate
    steps, scale = settings.reference.num_steps, settings.reference.guidance_scale
    titles = {
        "reference": f"reference, {steps} steps, guidance {scale:g}",
        "initial": "initial generator, one step",
        CANDIDATE: "DI* generator, one step",
    }
    prompts = evaluation.prompts
    count = min(settings.num_grid_prompts, len(prompts))
    shown = [i * len(prompts) // count for i in range(count)]
    return Report(
        profile=params.root.profile,
        notice=params.profile.package.notice,
        prompts=[prompts[i] for i in shown],
        pictures=[SystemPictures(name, title, systems[name].pictures(shown)) for name, title in titles.items()],
        metrics=metrics,
        compare_by=settings.compare_by,
        published=published_beside(
            params, evaluation, {title: systems[name].summary for name, title in titles.items()}
        ),
        probes_path=paths.PROBES_LOG,
        probe_reference_path=paths.PROBE_REFERENCE,
        lineage=_lineage(params),
    )


def published_beside(
    params: Params, evaluation: Evaluation, summaries: dict[str, dict[str, object]]
) -> list[Comparison]:
    """Set our figures beside the paper's, which gives PickScore as its cosine and HPSv2 in hundredths."""

    def factor(name: str) -> float:
        scorer = evaluation.scorers[name]
        match params.profile.rewards[name].kind:
            case "pickscore" if isinstance(scorer, ClipReward):
                return 1 / scorer.scale
            case "hpsv2":
                return 100.0
            case _:
                return 1.0

    rewards = {
        name: Ours(params.profile.rewards[name].model_dump(), factor(name)) for name in params.profile.evaluate.rewards
    }
    protocol, family = params.profile.evaluate.protocol, params.profile.reference.family
    return compare_with_published(protocol, family, len(evaluation.prompts), rewards, summaries)


def _write_scores(evaluation: Evaluation, systems: dict[str, Measured], path: Path) -> None:
    """Write each figure of every prompt, so that pairs can be compared later; diversity has fewer prompts."""
    columns = {
        f"{system}_{name}": values.tolist()
        for system, measured in systems.items()
        for name, values in {**measured.scores, **measured.statistics, "diversity": measured.diversity}.items()
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "label", *columns])
        writer.writerows(zip_longest(evaluation.prompts, evaluation.labels, *columns.values()))


def _lineage(params: Params) -> Lineage:
    card = read_card(paths.PROMPTS_CARD)
    folders = (paths.GENERATOR_WEIGHTS, paths.REFERENCE, paths.INITIAL_GENERATOR, paths.REWARDS)
    return Lineage(
        parameters={"profile": params.root.profile, "seed": params.seed, **params.profile.model_dump(mode="json")},
        hashes={
            "training prompts": card["train"]["sha256"],
            "evaluation prompts": card["evaluation"]["sha256"],
            "dependency lock": sha256_of(LOCK_PATH),
            **{
                path.relative_to(paths.OUTPUTS).as_posix(): sha256_of(path)
                for folder in folders
                for path in sorted(folder.rglob("*.safetensors"))
            },
        },
    )
