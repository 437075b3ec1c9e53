"""The gate on a release that the stages made: what it reads there is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distar import paths
from distar.errors import ReleaseError
from distar.evaluation.gate import Evaluated, judge
from distar.params import load_params


def read(name: str) -> bytes:
    return (paths.RELEASE / name).read_bytes()


def test_the_release_holds_what_the_gate_compares(reproduced: Path) -> None:
    metrics, gate = json.loads(paths.METRICS.read_text()), load_params().root.retrain.gate
    release = Evaluated.read(read)
    assert release.held_out == ["matching", "judge"]
    verdict = judge(release, None, gate)
    for check in verdict.checks:
        for value, system in ((check.candidate, "generator"), (check.champion, "initial")):
            figures = metrics[system]
            expected = figures["rewards"][check.figure]["mean"] if check.figure in figures["rewards"] else None
            assert value == pytest.approx(figures[check.figure] if expected is None else expected)
    assert [check.passed for check in judge(release, release, gate).checks] == [False, True, True, True, True, True]


def test_another_file_of_a_reward_is_another_reward(reproduced: Path) -> None:
    release = Evaluated.read(read)
    bill = read("bom.cdx.json").decode()
    name, digest = next((n, d) for n, d in release.scorers["matching"].items() if n.endswith("model.safetensors"))
    other = Evaluated.read(
        lambda path: bill.replace(digest, "0" * 64).encode() if path == "bom.cdx.json" else read(path)
    )
    verdict = judge(other, release, load_params().root.retrain.gate)
    assert f"{name} is {'0' * 64}, the champion's {digest}" in verdict.summary
    assert [check.figure for check in verdict.checks if check.candidate is None] == ["matching"]


@pytest.mark.parametrize("damaged", ["scores.csv", "params.yaml", "bom.cdx.json"])
def test_a_damaged_release_is_told(reproduced: Path, damaged: str) -> None:
    with pytest.raises(ReleaseError, match=r"evaluation cannot be read|is not a JSON document|does not have the form"):
        Evaluated.read(lambda path: b"" if path == damaged else read(path))
