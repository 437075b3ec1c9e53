"""The DVC project as a user works with it: repro, repro again, change, experiment, compare."""

from __future__ import annotations

import json
from compileall import compile_dir
from pathlib import Path

from tests.miniature import edit, git, run_dvc

SHARED = {"prompts", "reference", "rewards"}


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_second_repro_runs_nothing_and_says_so(reproduced: Path) -> None:
    output = run_dvc(reproduced, "repro")
    assert stages_run(output) == set()
    assert "Data and pipelines are up to date." in output


def test_bytecode_runs_nothing_again(reproduced: Path) -> None:
    assert compile_dir("distar", quiet=1)
    assert list(Path("distar").rglob("*.pyc"))
    assert json.loads(run_dvc(reproduced, "status", "--json")) == {}


def test_experiment_runs_what_depends_on_the_parameter(reproduced: Path) -> None:
    before = json.loads((reproduced / "metrics.json").read_text())
    output = run_dvc(reproduced, "exp", "run", "-S", "profiles/mini.yaml:train.reward_scale=0.5")
    assert stages_run(output) == {"train", "evaluate", "package", "publish"}
    assert json.loads((reproduced / "metrics.json").read_text()) != before
    difference = json.loads(run_dvc(reproduced, "metrics", "diff", "--json"))
    assert "generator.rewards.preference.mean" in difference["metrics.json"]
    parameters = json.loads(run_dvc(reproduced, "params", "diff", "--json"))
    assert parameters["profiles/mini.yaml"]["train.reward_scale"] == {"old": 1.0, "new": 0.5, "diff": -0.5}
    git(reproduced, "checkout", "-q", "--", ".")
    run_dvc(reproduced, "checkout", "-q")


def test_publish_target_re_runs_publish_alone(reproduced: Path) -> None:
    edit(reproduced / "params.yaml", "publish", "url", value="file://elsewhere")
    assert stages_run(run_dvc(reproduced, "repro")) == {"publish"}
    assert (reproduced / "elsewhere" / "aliases" / "latest.json").exists()
    git(reproduced, "checkout", "-q", "--", ".")
    run_dvc(reproduced, "checkout", "-q")


def test_seed_re_runs_what_draws(reproduced: Path) -> None:
    edit(reproduced / "params.yaml", "seed", value=1)
    status = json.loads(run_dvc(reproduced, "status", "--json"))
    assert {"baseline", "train", "evaluate"} <= set(status)
    assert not SHARED & set(status)
    git(reproduced, "checkout", "-q", "--", ".")


def test_plots_are_drawn(reproduced: Path) -> None:
    run_dvc(reproduced, "plots", "show", "--out", "plots")
    page = (reproduced / "plots" / "index.html").read_text()
    assert "reward_preference" in page
