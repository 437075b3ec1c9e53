"""dvc.yaml against the code: a stage depends on all the code that it runs, and its parameters exist."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from distar.__main__ import STAGES
from distar.prompts.params import WATCHED_FOLDERS
from distar.stages.train import CODE
from tests.miniature import REPOSITORY

DVC = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
PARAMS = YAML(typ="safe").load(REPOSITORY / "params.yaml")
PROFILE = PARAMS["profile"]

# Modules that move no number: how work is shown, named, recorded or refused.
PRESENTATION = {
    "distar",
    "distar.atomic",
    "distar.credentials",
    "distar.disk",
    "distar.documents",
    "distar.errors",
    "distar.evaluation.params",  # its values are DVC parameters
    "distar.git",
    "distar.evaluation.summary",
    "distar.imports",
    "distar.launch",
    "distar.lineage",
    "distar.lineage.device",
    "distar.lineage.pipeline",
    "distar.lineage.provenance",
    "distar.lineage.record",
    "distar.lineage.runs",
    "distar.locking",
    "distar.model_files",  # what it names is pinned in the lock file, a dependency
    "distar.paths",
    "distar.printable",
    "distar.progress",
    "distar.secrets",
    "distar.stages",
}


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (REPOSITORY / path).is_dir() else path.with_suffix(".py")


def resolved(text: str) -> str:
    return text.replace("${profile}", PROFILE)


@pytest.fixture(scope="module")
def graph() -> Any:
    graph = grimp.build_graph("distar")
    graph.remove_module("distar.params")  # what it reads are DVC parameters; what it imports are their classes
    return graph


def test_stages_are_those_of_the_command_line() -> None:
    assert list(DVC["stages"]) == list(STAGES)
    for name, stage in DVC["stages"].items():
        assert stage["cmd"] == f"exec python -m distar {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_cover_the_imports(stage: str, graph: Any) -> None:
    module = f"distar.stages.{stage}"
    run = {module, *graph.find_upstream_modules(module)} - PRESENTATION
    deps = [Path(resolved(dep)) for dep in DVC["stages"][stage]["deps"]]
    missing = [m for m in sorted(run) if not any(dep == file_of(m) or dep in file_of(m).parents for dep in deps)]
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_and_files_exist(stage: str) -> None:
    profile = YAML(typ="safe").load(REPOSITORY / "profiles" / f"{PROFILE}.yaml")
    for entry in DVC["stages"][stage]["params"]:
        if isinstance(entry, str):
            assert entry in PARAMS
            continue
        for path, keys in entry.items():
            assert resolved(path) == f"profiles/{PROFILE}.yaml"
            for key in keys or []:
                place = profile
                for part in key.split("."):
                    place = place[part]
    outs = {path if isinstance(path, str) else next(iter(path)) for s in DVC["stages"].values() for path in s["outs"]}
    outs |= {next(iter(metric)) for s in DVC["stages"].values() for metric in s.get("metrics", [])}
    for dep in DVC["stages"][stage]["deps"]:
        assert resolved(dep) in outs or (REPOSITORY / resolved(dep)).exists(), dep


def test_local_prompt_files_lie_where_dvc_watches() -> None:
    assert set(WATCHED_FOLDERS) <= set(DVC["stages"]["prompts"]["deps"])


def test_where_files_come_from_re_runs_no_stage() -> None:
    """The mirror changes no result: what comes is checked against the pins wherever it was."""
    parameters = [entry for stage in DVC["stages"].values() for entry in stage["params"] if isinstance(entry, str)]
    assert "models" in PARAMS
    assert [name for name in parameters if name.startswith("models")] == []


def test_where_releases_go_re_runs_publish_alone() -> None:
    reading = [name for name, stage in DVC["stages"].items() if any("publish" in entry for entry in stage["params"])]
    assert "publish" in PARAMS
    assert reading == ["publish"]


def test_what_the_gate_asks_and_when_retrains_begin_re_runs_no_stage() -> None:
    """Margins and rules decide over what was measured; they change nothing of it."""
    assert "retrain" in PARAMS
    assert [name for name, stage in DVC["stages"].items() if "retrain" in str(stage["params"])] == []
    deps = [Path(resolved(dep)) for stage in DVC["stages"].values() for dep in stage["deps"]]
    gate = file_of("distar.evaluation.gate")
    assert [dep for dep in deps if dep == gate or dep in gate.parents] == []


def test_checkpoints_are_those_of_the_code_that_trains() -> None:
    deps = {dep.removeprefix("distar/") for dep in DVC["stages"]["train"]["deps"] if dep.startswith("distar/")}
    assert deps == set(CODE)


def test_every_profile_has_its_lock() -> None:
    for profile in (REPOSITORY / "profiles").glob("*.yaml"):
        assert json.loads(profile.with_suffix("").with_suffix(".lock.json").read_text())


def test_a_fresh_clone_publishes_for_itself() -> None:
    """Nothing that the pipeline makes is in git but the metrics, or a clone would take itself for published."""
    command = ["git", "ls-files", "outputs", "reports", "published", "runs"]
    tracked = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split()
    assert tracked == ["outputs/.gitignore"]
