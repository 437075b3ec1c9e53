"""What holds of the gate whatever was measured."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from distar.evaluation.gate import judge
from tests.gate import FIGURES, GATE, NUM_PROMPTS, evaluated, with_column

BETTER = {"preference": 1, "matching": 1, "judge": 1, "diversity": 1, "saturation": -1, "clipped_share": -1}
SPREADS = {
    "preference": 1.0,
    "matching": 0.5,
    "judge": 0.05,
    "diversity": 0.02,
    "saturation": 0.1,
    "clipped_share": 0.04,
}

shifts = st.fixed_dictionaries({name: st.floats(-spread, spread) for name, spread in SPREADS.items()})
scores = st.lists(st.floats(-1e6, 1e6), min_size=NUM_PROMPTS, max_size=NUM_PROMPTS)


@given(scores, st.sampled_from([0.0, 0.1]))
def test_identical_figures_are_never_promoted(values: list[float], min_gain: float) -> None:
    same = with_column(evaluated(), "generator_preference", [*values])
    verdict = judge(same, same, GATE.model_copy(update={"min_gain": {"preference": min_gain}}))
    assert [check.figure for check in verdict.checks if not check.passed] == ["preference"]
    assert not verdict.promote


@given(shifts, st.sampled_from(sorted(BETTER)), st.floats(0.001, 1))
def test_improving_a_figure_never_turns_promotion_into_rejection(
    before: dict[str, float], figure: str, by: float
) -> None:
    champion = evaluated()
    after = {**before, figure: before[figure] + BETTER[figure] * by}
    verdicts = [judge(evaluated(shift), champion, GATE) for shift in (before, after)]
    assert verdicts[1].promote or not verdicts[0].promote
    for first, second in zip(*(verdict.checks for verdict in verdicts), strict=True):
        assert second.passed or not first.passed


@given(
    st.sampled_from(sorted(FIGURES)),
    st.sampled_from([math.nan, math.inf, -math.inf, None]),
    st.integers(0, 3),
    st.booleans(),
)
def test_what_is_missing_or_no_number_is_rejected_and_named(
    figure: str, value: float | None, place: int, of_champion: bool
) -> None:
    good, champion = evaluated({"preference": 1.0}), evaluated()
    assert judge(good, champion, GATE).promote
    whole = (champion if of_champion else good).columns[f"generator_{figure}"]
    damaged = [value if i == place else one for i, one in enumerate(whole)]
    if of_champion:
        champion = with_column(champion, f"generator_{figure}", damaged)
    else:
        good = with_column(good, f"generator_{figure}", damaged)
    verdict = judge(good, champion, GATE)
    assert not verdict.promote
    (failed,) = [check for check in verdict.checks if not check.passed]
    assert failed.figure == {"judge": "judge_accuracy"}.get(figure, figure)
    whose = "champion" if of_champion else "candidate"
    expected = 4 if figure == "diversity" else NUM_PROMPTS
    assert f"the {whose}'s scores hold it for {expected - 1} of {expected} prompts" in failed.reason
    json.dumps(verdict.to_json(), allow_nan=False)
