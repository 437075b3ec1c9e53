"""Stage `package`: put the trained generator into a folder that plain diffusers loads."""

from __future__ import annotations

from ruamel.yaml import YAML

from distar import paths
from distar.atomic import written_whole
from distar.evaluation.summary import read_card, read_metrics
from distar.fetching import pins_of, read_pins
from distar.lineage.record import recorded
from distar.params import Params, is_prompts, load_params, lock_path, profile_files
from distar.prompts import load_prompts
from distar.release.bom import write_bom
from distar.release.origins import Origin, licence_texts
from distar.release.package import Card, copy_into, write_card, write_licences, write_manifest


def run() -> None:
    """Write the release folder, whole or not at all."""
    params = load_params()
    package, generator = params.profile.package, params.profile.train.generator
    with recorded("package") as record:
        metrics = read_metrics(paths.METRICS)
        card = Card(
            name=package.name,
            licence=package.licence,
            notice=package.notice,
            profile=params.root.profile,
            timestep=generator.timestep,
            noise_scale=generator.noise_scale,
            network=params.profile.reference.network_name,
            call_options=params.profile.reference.call_options,
            example_prompt=load_prompts(paths.EVALUATION_PROMPTS)[0],
            metrics=metrics,
            compare_by=params.profile.evaluate.compare_by,
            origins=[*_models(params), *_prompt_sets(params)],
        )
        contents = {"profile": params.root.profile, "seed": params.seed, **params.profile.model_dump(mode="json")}
        with written_whole(paths.RELEASE) as folder:
            params.profile.reference.write_pipeline(paths.REFERENCE, paths.GENERATOR_WEIGHTS, folder)
            copy_into(folder, paths.METRICS, paths.SCORES, paths.SAMPLE_GRID, paths.REPORT_PAGE, paths.PROMPTS_CARD)
            with (folder / "params.yaml").open("w", encoding="utf-8") as file:
                YAML().dump(contents, file)
            write_card(card, folder / "README.md")
            write_licences(card, folder)
            write_bom(card, folder)
            record["release"] = write_manifest(folder)


def _models(params: Params) -> list[Origin]:
    """Return the origins that are models, or belong to them; the release hands on the texts of what is in it."""
    pins, licences = read_pins(lock_path(params.root.profile)), params.profile.package.licences
    origins = []
    for folder, files in profile_files(params.profile).items():
        if not is_prompts(folder):
            name = paths.role(folder)
            texts = licence_texts(name, folder) if folder.is_relative_to(paths.REFERENCE.parent) else {}
            kind, pinned = "data" if name == "fid/statistics" else "model", pins_of(files, pins)
            origins.append(Origin(name, kind, files.source, licences[files.source], pinned, texts=texts))
    return origins


def _prompt_sets(params: Params) -> list[Origin]:
    pins, sets = read_pins(lock_path(params.root.profile)), read_card(paths.PROMPTS_CARD)
    return [
        Origin(
            f"prompts/{name}",
            "data",
            source.source,
            source.licence,
            {path: pin for files in source.model_files.values() for path, pin in pins_of(files, pins).items()},
            sha256=sets[name]["sha256"],
        )
        for name, source in params.profile.prompts.sources.items()
    ]
