"""Stage `evaluate`: measure the trained generator, compare it with the baseline, and report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from distar import paths
from distar.atomic import written_whole
from distar.embeddings import Embeddings
from distar.evaluation.measuring import Measured, measure
from distar.evaluation.metrics import WinRate
from distar.evaluation.report import Lineage, Report, SystemPictures, write_grid, write_page
from distar.evaluation.sampling import one_step
from distar.hashing import sha256_of
from distar.lineage.record import LOCK_PATH, recorded
from distar.loading import diversity_features, load_family, load_generator, load_rewards
from distar.params import Params, load_params
from distar.prompts import load_prompts
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
        features = diversity_features(params, rewards)
        prompts, encoded = load_prompts(paths.EVALUATION_PROMPTS), Embeddings(paths.EVALUATION_EMBEDDINGS)
        draw = one_step(load_generator(params, family, paths.GENERATOR_WEIGHTS))
        candidate = measure(CANDIDATE, draw, family, rewards, features, prompts, encoded, settings, params.seed)
        systems = {CANDIDATE: candidate} | {name: Measured.read(paths.BASELINE / name) for name in BASELINES}
        compared = {name: measured.scores[settings.compare_by] for name, measured in systems.items()}
        metrics: dict[str, object] = {name: measured.summary for name, measured in systems.items()}
        metrics["win_rate"] = {
            f"vs_{name}": vars(WinRate.of(compared[CANDIDATE], compared[name])) for name in BASELINES
        }
        with written_whole(paths.REPORTS) as folder:
            folder.mkdir()
            report = _report(params, systems, metrics)
            write_page(report, folder / paths.REPORT_PAGE.name)
            write_grid(report, folder / paths.SAMPLE_GRID.name)
            _write_scores(systems, folder / paths.SCORES.name)
        with written_whole(paths.METRICS) as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        record["device"] = str(accelerator.device)


def _report(params: Params, systems: dict[str, Measured], metrics: dict[str, object]) -> Report:
    settings = params.profile.evaluate
    steps, scale = settings.reference.num_steps, settings.reference.guidance_scale
    titles = {
        "reference": f"reference, {steps} steps, guidance {scale:g}",
        "initial": "initial generator, one step",
        CANDIDATE: "DI* generator, one step",
    }
    prompts = systems[CANDIDATE].prompts
    count = min(settings.num_grid_prompts, len(prompts))
    shown = [i * len(prompts) // count for i in range(count)]
    return Report(
        profile=params.root.profile,
        notice=params.profile.package.notice,
        prompts=[prompts[i] for i in shown],
        pictures=[SystemPictures(name, title, systems[name].images[shown]) for name, title in titles.items()],
        metrics=metrics,
        compare_by=settings.compare_by,
        updates_path=paths.UPDATES_LOG,
        probes_path=paths.PROBES_LOG,
        lineage=_lineage(params),
    )


def _write_scores(systems: dict[str, Measured], path: Path) -> None:
    """Write every system's score of every prompt, so that pairs can be compared later."""
    columns = {
        f"{system}_{name}": values.tolist()
        for system, measured in systems.items()
        for name, values in measured.scores.items()
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", *columns])
        writer.writerows(zip(systems[CANDIDATE].prompts, *columns.values(), strict=True))


def _lineage(params: Params) -> Lineage:
    card = json.loads(paths.PROMPTS_CARD.read_text(encoding="utf-8"))
    folders = (paths.GENERATOR_WEIGHTS, paths.REFERENCE, paths.INITIAL_GENERATOR, paths.REWARDS)
    return Lineage(
        parameters=params.model_dump(mode="json"),
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
