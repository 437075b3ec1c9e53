"""The grid of experiments over a miniature DVC project: real worktrees, real runs."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness
from ruamel.yaml import YAML

from distar.errors import ParameterError
from flows.changes import check_changes
from flows.grid import grid
from tests.miniature import with_pipeline

PLAN = {
    "profile": "mini",
    "seeds": [0],
    "variants": {"as it is": {}, "no reward": {"train.reward_scale": 0.0}},
}


def test_grid_runs_every_variant_beside_the_workspace(project: Path) -> None:
    with_pipeline(project)
    YAML().dump(PLAN, project / "grid.yaml")
    (project / "prompts.txt").write_text("not committed")
    with prefect_test_harness(server_startup_timeout=120):
        grid("grid.yaml")
    with (project / "grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["as it is", "no reward"]
    assert rows[0]["reward_preference"] != rows[1]["reward_preference"]
    assert not (project / "metrics.json").exists()
    worktrees = subprocess.run(["git", "worktree", "list"], check=True, capture_output=True, text=True).stdout
    assert len(worktrees.splitlines()) == 1

    subprocess.run(["dvc", "repro", "-q", "evaluate"], check=True)  # from the shared cache: the same figures
    metrics = json.loads((project / "metrics.json").read_text())
    assert float(rows[0]["reward_preference"]) == metrics["generator"]["rewards"]["preference"]["mean"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train.reward_scail", "where 'reward_scail' stands it has reward_scale"),
        ("train.reward_scale.x", "there is no such parameter"),
    ],
)
def test_misspelt_change_is_refused_before_the_first_run(key: str, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        check_changes({key: 0.0}, {"train": {"reward_scale": 1.0}}, "grid.yaml: variant")
