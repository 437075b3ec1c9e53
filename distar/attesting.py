"""Gather what a packaged release's provenance states, from the project that packaged it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import RootModel
from typing_extensions import TypedDict

from distar import paths
from distar.documents import content_of, read_json, read_yaml, validated
from distar.errors import ReleaseError
from distar.fetching import pins_of, read_pins
from distar.hashing import pin_file
from distar.lineage.pipeline import read_dvc_lock
from distar.lineage.provenance import Material, Statement, make_statement
from distar.lineage.record import digest_of_pins
from distar.lineage.runs import runs_behind
from distar.model_files import ModelFiles
from distar.params import Params, is_prompts, load_params, lock_path, profile_files
from distar.release.package import MANIFEST, read_manifest
from distar.release.releases import parse_manifest

_REPACKAGE = "run `dvc repro -f package`"


class _Packaged(TypedDict):
    """What of a release's params.yaml stands beside the profile's sections."""

    profile: str
    seed: int


class _PromptSet(TypedDict):
    """What is stated of a prompt set."""

    source: str
    sha256: str
    licence: str
    num_prompts: int


class _PromptSets(RootModel[dict[str, _PromptSet]]):
    """The card of the prompt sets."""


def state_provenance(folder: Path) -> Statement:
    """State how the release in `folder` was made: its runs, its parameters and everything that went into it.

    Raises:
        ReleaseError: the folder is incomplete, or a file of it is damaged.
        ParameterError: dvc.lock is not what DVC writes.
    """
    content = read_manifest(folder)
    files = parse_manifest(content, str(folder / MANIFEST))
    for name in ("params.yaml", paths.PROMPTS_CARD.name):
        if name not in files:
            raise ReleaseError(f"{folder} has no {name}, of which provenance is made; {_REPACKAGE}")
    stages = read_dvc_lock()  # none of those that were run by hand, which the audit tells
    digest = digest_of_pins({**files, MANIFEST: pin_file(folder / MANIFEST)})["sha256"]
    return make_statement(
        hashlib.sha256(content).hexdigest(),
        files,
        _parameters(folder / "params.yaml"),
        runs_behind(paths.RELEASE.as_posix(), digest),
        [*_prompt_sets(folder), *model_materials(load_params())],
        {name: entry for name, entry in stages.items() if name != "publish"},
    )


def _parameters(path: Path) -> dict[str, Any]:
    content = read_yaml(content_of(path, ReleaseError, _REPACKAGE), str(path), ReleaseError)
    validated(_Packaged, content, str(path), ReleaseError)
    return content


def _prompt_sets(folder: Path) -> list[Material]:
    path = folder / paths.PROMPTS_CARD.name
    content = read_json(content_of(path, ReleaseError, _REPACKAGE), str(path), ReleaseError)
    return [
        Material(
            f"prompts/{name}",
            entry["source"],
            entry["sha256"],
            {"licence": entry["licence"], "num_prompts": entry["num_prompts"]},
        )
        for name, entry in validated(_PromptSets, content, str(path), ReleaseError).root.items()
    ]


def model_materials(params: Params) -> list[Material]:
    """Name every file that a profile fetches, by the role of the folder that it is fetched into.

    Raises:
        ModelFileError: the profile's lock file does not pin them all.
    """
    pins = read_pins(lock_path(params.root.profile))
    return [
        Material(f"{paths.role(place)}/{name}", _uri(files, name), str(pin["sha256"]), {})
        for place, files in profile_files(params.profile).items()
        if not is_prompts(place)  # the prompt sets are named as they were made of them
        for name, pin in pins_of(files, pins).items()
    ]


def _uri(files: ModelFiles, name: str) -> str:
    one_file = files.source.endswith(f"/{name}")  # a source may be a file itself
    return files.source if one_file else f"{files.source}/{name}"
