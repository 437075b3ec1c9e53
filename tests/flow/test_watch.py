"""When a reward counts as fallen: against what the release states of itself, or against its first watch."""

from __future__ import annotations

from typing import Any

import pytest

from distar.errors import PromptError
from flows.watch import compared

STATED = {"mean": 20.0, "sem": 0.3}


def scored(mean: float, sem: float | None = 0.4, prompts: str | None = None, **stated: Any) -> dict[str, Any]:
    scores = {"preference": {"mean": mean, "sem": sem}}
    return {"prompts": prompts, "compare_by": "preference", "scores": scores, "released": stated}


@pytest.mark.parametrize(("mean", "regressed"), [(18.98, True), (19.02, False), (25.0, False)])
def test_a_fall_by_more_than_the_margin_counts(mean: float, regressed: bool) -> None:
    row = compared(scored(mean, preference=STATED), "abc", 2.0, [])  # hypot(0.3, 0.4) = 0.5: two of them are 1
    assert row["regressed"] is regressed
    assert row["mean_before"] == 20.0
    assert row["allowed"] == pytest.approx(1.0)


def test_on_other_prompts_the_first_watch_is_what_counts() -> None:
    first = compared(scored(20.0, prompts="new.txt", preference=STATED), "abc", 2.0, [])
    assert (first["mean_before"], first["regressed"]) == (20.0, False)
    slowly = compared(scored(19.0, prompts="new.txt"), "abc", 2.0, [first])
    assert (slowly["mean_before"], slowly["regressed"]) == (20.0, False)
    fallen = compared(scored(18.0, prompts="new.txt"), "abc", 2.0, [slowly])  # the first row may be long gone
    assert (fallen["mean_before"], fallen["regressed"]) == (20.0, True)


def test_another_release_or_prompt_set_begins_anew() -> None:
    first = compared(scored(20.0, prompts="new.txt"), "abc", 2.0, [])
    assert compared(scored(1.0, prompts="new.txt"), "def", 2.0, [first])["mean_before"] == 1.0
    assert compared(scored(1.0, prompts="other.txt"), "abc", 2.0, [first])["mean_before"] == 1.0


def test_a_reward_that_the_release_was_not_scored_by_is_compared_with_its_first_watch() -> None:
    first = compared(scored(20.0), "abc", 2.0, [])
    assert compared(scored(18.0), "abc", 2.0, [first])["regressed"]


def test_one_prompt_tells_nothing() -> None:
    with pytest.raises(PromptError, match="has no standard error"):
        compared(scored(20.0, sem=None, prompts="one.txt"), "abc", 2.0, [])
