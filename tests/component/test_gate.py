"""The gate's intervals against what is known of them, and its verdicts on candidates good, hacked and incomparable."""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from distar.errors import ParameterError
from distar.evaluation.gate import Check, Evaluated, Verdict, judge, verdict_markdown, verdict_table
from tests.gate import FIGURES, GATE, NUM_PROMPTS, evaluated, with_column

GOOD = {"preference": 1.0}


def check_of(verdict: Verdict, figure: str) -> Check:
    return next(check for check in verdict.checks if check.figure == figure)


def failed(verdict: Verdict) -> list[str]:
    return [check.figure for check in verdict.checks if not check.passed]


def with_preference(differences: list[float]) -> Evaluated:
    values = [old + new for old, new in zip(FIGURES["preference"], differences, strict=True) if old is not None]
    return with_column(evaluated(), "generator_preference", [*values])


# The intervals


def test_interval_is_the_mean_difference_and_1_96_standard_errors() -> None:
    differences = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]
    check = check_of(judge(with_preference(differences), evaluated(), GATE), "preference")
    error = math.sqrt(sum((d - 2.5) ** 2 for d in differences) / 7 / 8)
    assert check.difference == pytest.approx(2.5)
    assert check.low == pytest.approx(2.5 - 1.959963984540054 * error)
    assert check.high == pytest.approx(2.5 + 1.959963984540054 * error)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """400 experiments of 100 prompts: 95 % of the intervals hold the true difference, give or take three errors."""
    source, held = random.Random(0), 0
    prompts = [str(i) for i in range(100)]
    for _ in range(400):
        difficulty = [source.gauss(0, 5) for _ in prompts]
        columns = {
            name: [base + truth + source.gauss(0, 1) for base in difficulty]
            for name, truth in (("generator_preference", 0.3), ("initial_preference", 0.0))
        }
        one = replace(evaluated(), prompts=prompts, labels=[""] * 100, columns=columns)
        check = check_of(judge(one, None, GATE), "preference")
        assert check.low is not None
        assert check.high is not None
        held += check.low <= 0.3 <= check.high
    assert 0.95 * 400 - 13 <= held <= 0.95 * 400 + 13


def test_styles_of_the_hpsv2_benchmark_count_alike() -> None:
    differences = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 5.0]
    labels = ["anime"] * 6 + ["photo"] * 2
    candidate, champion = (
        replace(one, labels=labels, parameters={**one.parameters, "evaluate": {**one.settings, "protocol": "hpsv2"}})
        for one in (with_preference(differences), evaluated())
    )
    check = check_of(judge(candidate, champion, GATE), "preference")
    assert check.difference == pytest.approx((1 + 4) / 2)
    assert check.low == pytest.approx(2.5 - 1.959963984540054 * math.sqrt(2) / math.sqrt(2) / 2)


def test_other_prompts_are_compared_by_their_means_and_the_verdict_says_so() -> None:
    candidate, champion = evaluated(GOOD), evaluated()
    same = judge(candidate, champion, GATE)
    assert same.paired
    other = replace(champion, prompts=[*champion.prompts[1:], "another"])
    verdict = judge(candidate, other, GATE)
    assert not verdict.paired
    assert "prompts are not the same" in verdict.basis
    check, values = check_of(verdict, "preference"), [10.0, 9.0, 11.0, 10.5, 9.5, 10.2, 9.8, 10.0]
    variance = sum((value - 10) ** 2 for value in values) / 7
    assert check.difference == pytest.approx(1.0)
    assert check.low == pytest.approx(1.0 - 1.959963984540054 * math.sqrt(2 * variance / 8))


# The verdicts


def test_a_better_candidate_is_promoted() -> None:
    verdict = judge(evaluated(GOOD), evaluated(), GATE)
    assert verdict.promote
    assert verdict.summary == "Promoted: better than the champion by every rule of the gate."


def test_a_gain_must_be_certain() -> None:
    """The mean rises by 0.5, five times what is asked for, but by luck on one prompt."""
    verdict = judge(with_preference([4.0, *[0.0] * 7]), evaluated(), GATE)
    assert failed(verdict) == ["preference"]
    assert "a rise of more than 0.1 is asked for, and the interval does not exclude worse" in verdict.summary


@pytest.mark.parametrize(
    ("shifts", "figure"),
    [
        ({"preference": 0.05}, "preference"),
        ({"matching": -0.3}, "matching"),
        ({"judge": -0.05}, "judge_accuracy"),
        ({"diversity": -0.02}, "diversity"),
        ({"saturation": 0.1}, "saturation"),
        ({"clipped_share": 0.03}, "clipped_share"),
    ],
)
def test_each_rule_rejects_by_itself(shifts: dict[str, float], figure: str) -> None:
    assert failed(judge(evaluated({**GOOD, **shifts}), evaluated(), GATE)) == [figure]


def test_a_hacked_reward_is_rejected_and_every_broken_rule_named() -> None:
    judged: list[float | None] = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    hacked = evaluated({"preference": 3.0, "diversity": -0.03, "saturation": 0.3, "clipped_share": 0.4})
    verdict = judge(with_column(hacked, "generator_judge", judged), evaluated(), GATE)
    assert failed(verdict) == ["judge_accuracy", "diversity", "saturation", "clipped_share"]
    assert verdict.summary.startswith("Rejected: judge accuracy fell from 1 to 0.375 (")
    assert "a fall of at most 0.02 is allowed; diversity fell from 0.04 to 0.01 (" in verdict.summary
    assert "at most 1.2 times that is allowed" in verdict.summary


def test_the_first_candidate_must_beat_its_initial_generator() -> None:
    first, no_better = (judge(evaluated(shifts), None, GATE) for shifts in (GOOD, {}))
    assert (first.promote, no_better.promote) == (True, False)
    assert first.against == "initial generator"
    assert first.checks == [*judge(evaluated(GOOD), evaluated(), GATE).checks]


def test_a_held_out_reward_that_is_no_longer_measured_is_missed() -> None:
    candidate = evaluated(GOOD, rewards=["preference"])
    columns = {name: values for name, values in candidate.columns.items() if "matching" not in name}
    verdict = judge(replace(candidate, columns=columns), evaluated(), GATE)
    assert failed(verdict) == ["matching"]
    assert "the candidate's scores hold it for 0 of 8 prompts" in verdict.summary


@pytest.mark.parametrize(
    ("setting", "value", "figures"),
    [
        ("protocol", "parti", {"preference", "matching", "judge_accuracy", "diversity", "saturation", "clipped_share"}),
        (
            "precision",
            "bf16",
            {"preference", "matching", "judge_accuracy", "diversity", "saturation", "clipped_share"},
        ),
        ("backend", "official", {"preference", "matching", "judge_accuracy"}),
        ("diversity", {"num_prompts": 4, "num_images_per_prompt": 9, "features": "matching"}, {"diversity"}),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(setting: str, value: Any, figures: set[str]) -> None:
    verdict = judge(evaluated(GOOD, **{setting: value}), evaluated(), GATE)
    assert {*failed(verdict)} == figures
    assert f"it was measured otherwise than the champion's: evaluate.{setting} is {value}" in verdict.summary


def test_another_version_of_a_reward_is_not_compared() -> None:
    candidate = evaluated(GOOD)
    other = {**candidate.scorers, "preference": {"rewards.preference.kind": "pickscore", "rewards/preference/a": "1f"}}
    verdict = judge(replace(candidate, scorers=other), evaluated(), GATE)
    assert failed(verdict) == ["preference"]
    assert "rewards/preference/a is 1f, the champion's absent" in verdict.summary


@pytest.mark.parametrize(("source", "promote"), [("hf://owner/prompts@2222/all.txt", True), ("file://mine.txt", False)])
def test_prompts_of_another_source_are_not_compared_those_of_another_revision_are(source: str, promote: bool) -> None:
    champion = evaluated()
    candidate = evaluated({"preference": 2.0})
    candidate = replace(
        candidate,
        prompts=[f"other {i}" for i in range(NUM_PROMPTS)],
        parameters={**candidate.parameters, "prompts": {"evaluation": {"source": source}}},
    )
    loose = GATE.model_copy(
        update={"max_loss": {"matching": 1.0, "judge": 0.1}, "min_diversity_ratio": 0.5, "max_clipped_rise": 0.1}
    )
    assert judge(candidate, champion, loose).promote == promote


def test_a_reward_without_a_margin_is_told_before_anything_is_judged() -> None:
    narrow = GATE.model_copy(update={"max_loss": {"matching": 0.2}})
    with pytest.raises(ParameterError, match=r"retrain\.gate\.max_loss says nothing of judge, .* it has matching"):
        judge(evaluated(GOOD), evaluated(), narrow)


def test_verdict_is_shown_on_the_terminal_and_as_markdown() -> None:
    verdict = judge(evaluated({**GOOD, "saturation": 0.1}), evaluated(), GATE)
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(verdict_table(verdict))
    terminal = console.export_text()
    markdown = verdict_markdown(verdict)
    assert "Rejected: saturation rose from 0.3 to 0.4" in markdown
    assert "| saturation | 0.4 | 0.3 | +0.1 | +0.1 to +0.1 | +0.06 | failed |" in markdown
    assert [line for line in terminal.splitlines() if "saturation" in line and "failed" in line]
