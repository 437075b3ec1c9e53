"""`distar score` on a project that was run: the release's own figures again, and other prompts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from distar import paths
from distar.prompts import load_prompts
from tests.miniature import edit, state_licences


def scored(*arguments: str, status: int = 0) -> Any:
    command = [sys.executable, "-m", "distar", "score", *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return json.loads(result.stdout) if status == 0 else result.stderr


def test_a_release_scores_as_it_was_evaluated(reproduced: Path) -> None:
    shutil.rmtree("outputs/reference")  # all that draws is in the release
    shutil.rmtree("outputs/embeddings")
    found = scored("outputs/release")
    stated = json.loads((reproduced / "metrics.json").read_text())["generator"]
    assert found["released"] == stated["rewards"]
    for name, figures in stated["rewards"].items():
        assert found["scores"][name] == pytest.approx(figures, rel=1e-4)
    assert found["scores"]["judge"]["mean"] == pytest.approx(stated["judge_accuracy"])
    assert (found["num_prompts"], found["prompts"], found["compare_by"]) == (7, None, "preference")
    assert [one["prompt"] for one in found["by_prompt"]] == list(load_prompts(paths.EVALUATION_PROMPTS))
    assert set(found["by_prompt"][0]["scores"]) == {"preference", "matching", "judge"}
    for name in stated["rewards"]:
        scores, released = ([one[whose][name] for one in found["by_prompt"]] for whose in ("scores", "released"))
        assert scores == pytest.approx(released, rel=1e-4)
        assert fmean(scores) == pytest.approx(found["scores"][name]["mean"])


def test_other_prompts_and_another_reward_are_told(reproduced: Path) -> None:
    Path("new.txt").write_text("a teal moon on sand\n\na red star\n")
    before = scored("outputs/release", "--prompts", "new.txt")
    assert set(before["released"]) == {"preference", "matching"}
    assert [one["prompt"] for one in before["by_prompt"]] == ["a teal moon on sand", "a red star"]
    assert [one["released"] for one in before["by_prompt"]] == [{}, {}]  # the release drew others
    edit(reproduced / "profiles" / "mini.yaml", "evaluate", "rewards", value=["preference"])
    edit(reproduced / "profiles" / "mini.yaml", "rewards", "preference", "source", value="file://another")
    state_licences(reproduced)
    found = scored("outputs/release", "--prompts", "new.txt")
    assert (found["num_prompts"], found["prompts"]) == (2, "new.txt")
    assert set(found["scores"]) == {"preference"}  # the judge does not understand the second
    assert "preference" not in found["released"]  # another reward's figures are nothing to compare with
    assert found["scorer"] != before["scorer"]


@pytest.mark.parametrize(("setting", "value"), [("backend", "official"), ("precision", "bf16")])
def test_figures_measured_otherwise_are_not_set_beside(reproduced: Path, setting: str, value: str) -> None:
    edit(reproduced / "outputs" / "release" / "params.yaml", "evaluate", setting, value=value)
    found = scored("outputs/release")
    assert found["released"] == {}
    assert all(one["released"] == {} for one in found["by_prompt"])


def test_what_cannot_be_scored_is_refused(reproduced: Path) -> None:
    (reproduced / "empty.txt").write_text("\n")
    assert "ReleaseError: outputs/scores.csv does not exist" in scored("outputs", status=1)
    assert "PromptError: empty.txt holds no prompt" in scored("outputs/release", "--prompts", "empty.txt", status=1)
    edit(reproduced / "outputs" / "release" / "params.yaml", "reference", "family", value="unheard")
    assert "is not understood by this version" in scored("outputs/release", status=1)
