"""The benchmark of orchestration runs one pipeline in every way, and lets no time count that was spent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from distar.bench import orchestration
from distar.errors import BenchmarkError
from tests.flow.test_tiny_chain import fresh_copy
from tests.miniature import edit, git, git_init


@pytest.fixture
def one_stage(tmp_path: Path) -> Path:
    """Copy the project and leave of its pipeline the stage that waits for the fewest libraries."""
    folder = fresh_copy(tmp_path / "original")
    pipeline = YAML().load(folder / "dvc.yaml")
    YAML().dump(
        {"vars": pipeline["vars"], "stages": {"reference": pipeline["stages"]["reference"]}}, folder / "dvc.yaml"
    )
    return git_init(folder)


def test_every_way_runs_the_pipeline_and_leaves_the_project_alone(one_stage: Path) -> None:
    figures = orchestration.measure_orchestration(one_stage, rounds=1)
    seconds, whole = figures.orchestration_seconds, figures.pipeline_seconds
    assert [*whole] == ["direct_one_process", "stage_processes"]
    assert [*seconds] == ["stage_processes", "dvc", "flow", "flow_own_server"]
    assert all(value > 0 for value in (*seconds.values(), *whole.values()))
    assert seconds["stage_processes"] < whole["stage_processes"]
    assert figures.orchestration_overhead_s == seconds["flow"] - seconds["stage_processes"]
    assert git(one_stage, "status", "--porcelain", "--ignored") == ""


def test_run_that_comes_out_different_does_not_count(one_stage: Path, tmp_path: Path) -> None:
    edit(
        one_stage / "dvc.yaml",
        "stages",
        "reference",
        "cmd",
        value="python -m distar reference; touch outputs/reference/more",
    )
    git(one_stage, "commit", "-qam", "DVC makes more than the stage does")
    stages, with_dvc = orchestration._ways(["reference"], "")
    with pytest.raises(BenchmarkError, match="outputs/reference came out of `dvc` different"):
        orchestration._measure(orchestration._Clone(one_stage, tmp_path), {**stages, "dvc": with_dvc["dvc"]})


def test_failed_run_is_told_with_its_last_words(one_stage: Path, tmp_path: Path) -> None:
    (one_stage / "distar" / "stages" / "reference.py").write_text("def run():\n    raise SystemExit('no reference')\n")
    git(one_stage, "commit", "-qam", "Break the stage")
    direct = orchestration._ways(["reference"], "")[0]["direct_one_process"]
    with pytest.raises(BenchmarkError, match=r"ended with status 1 [^\n]*\nno reference"):
        orchestration._Clone(one_stage, tmp_path).run(direct)
