"""The benchmark of orchestration runs one pipeline in every way, and lets no time count that was spent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from distar.bench.orchestration import measure_orchestration
from distar.errors import BenchmarkError
from tests.flow.test_tiny_chain import fresh_copy
from tests.miniature import git, git_init


@pytest.fixture
def one_stage(tmp_path: Path) -> Path:
    """Copy the project and leave of its pipeline the stage that waits for the fewest libraries."""
    folder = fresh_copy(tmp_path / "project")
    _keep(folder, "reference")
    return git_init(folder)


def _keep(folder: Path, *stages: str) -> None:
    path = folder / "dvc.yaml"
    whole = YAML().load(path)
    YAML().dump({"vars": whole["vars"], "stages": {name: whole["stages"][name] for name in stages}}, path)


def test_every_way_runs_the_pipeline_and_leaves_the_project_alone(one_stage: Path) -> None:
    figures = measure_orchestration(one_stage, rounds=1)
    seconds = figures.orchestration_seconds
    assert [*seconds] == ["direct_one_process", "stage_processes", "dvc", "flow", "flow_own_server"]
    assert all(value > 0 for value in seconds.values())
    assert figures.orchestration_overhead_s == seconds["flow"] - seconds["stage_processes"]
    assert git(one_stage, "status", "--porcelain", "--ignored") == ""


def test_run_that_comes_out_different_does_not_count(one_stage: Path) -> None:
    text = (one_stage / "dvc.yaml").read_text()
    (one_stage / "dvc.yaml").write_text(
        text.replace("distar reference", "distar reference; touch outputs/reference/more")
    )
    git(one_stage, "commit", "-qam", "DVC makes more than the stage does")
    with pytest.raises(BenchmarkError, match="outputs/reference came out of `dvc` different"):
        measure_orchestration(one_stage, rounds=1)


def test_failed_run_is_told_with_its_last_words(one_stage: Path) -> None:
    (one_stage / "distar" / "stages" / "reference.py").write_text("def run():\n    raise SystemExit('no reference')\n")
    git(one_stage, "commit", "-qam", "Break the stage")
    with pytest.raises(BenchmarkError, match="ended with status 1 .*\n.*no reference"):
        measure_orchestration(one_stage, rounds=1)
