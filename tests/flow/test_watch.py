"""When a reward counts as fallen: prompt by prompt where the prompts are the same, by its means where they are not."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from distar.errors import PromptError
from distar.release.releases import find
from distar.release.storage import open_store
from flows.watch import before, compared, first_watch, main, watch
from tests.miniature import git

SCORES = [4.0, 16.0, 7.0, 13.0, 10.0, 5.0, 15.0, 10.0]  # prompts differ by far more than the falls below
STYLES = ["anime"] * 6 + ["photo"] * 2


def figures(scores: Sequence[float], styles: Sequence[str] = ("any",) * len(SCORES)) -> dict[str, float]:
    """Estimate the mean of the styles' means, and its standard error."""
    groups: dict[str, list[float]] = {}
    for score, style in zip(scores, styles, strict=True):
        groups.setdefault(style, []).append(score)
    errors = [stdev(group) / math.sqrt(len(group)) for group in groups.values()]
    return {"mean": fmean(map(fmean, groups.values())), "sem": math.hypot(*errors) / len(groups)}


def scored(
    scores: Sequence[float],
    released: Sequence[float] | None = None,
    prompts: str | None = None,
    kind: str = "star",
    scorer: str = "0123",
) -> dict[str, Any]:
    """Make up what `distar score --json` prints; `kind` is what the prompts ask for."""
    stated = [{}] * len(scores) if released is None else [{"preference": score} for score in released]
    by_prompt: list[dict[str, Any]] = [
        {"prompt": f"{kind} {row}", "label": None, "scores": {"preference": score}, "released": of_release}
        for row, (score, of_release) in enumerate(zip(scores, stated, strict=True))
    ]
    return {
        "prompts": prompts,
        "protocol": "prompts",
        "compare_by": "preference",
        "scorer": scorer,
        "scores": {"preference": figures(scores)},
        "released": {"preference": figures(released)} if released else {},
        "by_prompt": by_prompt,
    }


def fallen(*falls: float) -> list[float]:
    return [score - fall for score, fall in zip(SCORES, falls * (len(SCORES) // len(falls)), strict=True)]


class Series:
    """Watches of one release, one after the other, with margin 2."""

    def __init__(self, release: str = "abc") -> None:
        self.release, self.rows, self.remembered = release, [], []

    def watch(self, scored: dict[str, Any]) -> dict[str, Any]:
        was = before(scored, self.release, self.rows, self.remembered)
        row = compared(scored, self.release, 2.0, was)
        if was is None:
            self.remembered = json.loads(json.dumps([*self.remembered, first_watch(scored)]))
        self.rows = [row]  # the first rows may be long gone
        return row


# The release's own evaluation


def test_a_fall_that_means_would_not_show_is_seen_prompt_by_prompt() -> None:
    now = fallen(0.2, 0.4)
    row = Series().watch(scored(now, released=SCORES))
    error = stdev([0.2, 0.4] * 4) / math.sqrt(8)
    assert row["paired"]
    assert row["fall"] == pytest.approx(0.3) == pytest.approx(row["mean_before"] - row["mean"])
    assert row["allowed"] == pytest.approx(2 * error)
    assert row["regressed"]
    other = scored(now, released=SCORES)
    for one in other["by_prompt"]:
        one["released"] = {}  # the release drew other prompts
    row = Series().watch(other)
    assert not row["paired"]
    assert row["fall"] == pytest.approx(0.3)
    assert row["allowed"] == pytest.approx(2 * math.hypot(row["sem"], row["sem_before"]))
    assert not row["regressed"]


@pytest.mark.parametrize(("falls", "regressed"), [((0.1, 0.3), True), ((-0.2, 0.4), False), ((-0.3,), False)])
def test_a_fall_by_more_than_the_margin_counts(falls: tuple[float, ...], regressed: bool) -> None:
    assert Series().watch(scored(fallen(*falls), released=SCORES))["regressed"] is regressed


def test_equal_scores_are_no_fall() -> None:
    row = Series().watch(scored(SCORES, released=SCORES))
    assert (row["paired"], row["fall"], row["regressed"]) == (True, 0.0, False)
    constant = Series().watch(scored([20.0] * 8, released=[20.0] * 8))
    assert (constant["fall"], constant["allowed"], constant["regressed"]) == (0.0, 0.0, False)


@pytest.mark.parametrize(("share", "regressed"), [(1e-6, False), (0.009, False), (0.011, True)])
def test_what_another_device_rounds_is_no_fall(share: float, regressed: bool) -> None:
    """All scores are lower by the same, without any chance; a hundredth of the standard deviation is allowed."""
    row = Series().watch(scored(fallen(share * stdev(SCORES)), released=SCORES))
    assert row["allowed"] == pytest.approx(0.01 * stdev(SCORES))
    assert row["regressed"] is regressed


def test_styles_of_the_hpsv2_benchmark_count_alike() -> None:
    falls = [0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.5, 0.9]
    now = [score - fall for score, fall in zip(SCORES, falls, strict=True)]
    told = scored(now, released=SCORES)
    told["protocol"] = "hpsv2"
    told["scores"], told["released"] = {"preference": figures(now, STYLES)}, {"preference": figures(SCORES, STYLES)}
    for one, style in zip(told["by_prompt"], STYLES, strict=True):
        one["label"] = style
    row = Series().watch(told)
    assert row["fall"] == pytest.approx((0.2 + 0.7) / 2) == pytest.approx(row["mean_before"] - row["mean"])
    assert row["allowed"] == pytest.approx(2 * figures(falls, STYLES)["sem"])


# Other prompts


def test_on_other_prompts_the_first_watch_is_what_counts() -> None:
    series = Series()
    first = series.watch(scored(SCORES, released=fallen(1.0), prompts="new.txt"))
    assert (first["mean_before"], first["fall"], first["regressed"]) == (10.0, 0.0, False)
    slowly = series.watch(scored(fallen(-0.1, 0.2), prompts="new.txt"))
    assert (slowly["mean_before"], slowly["paired"], slowly["regressed"]) == (10.0, True, False)
    row = series.watch(scored(fallen(0.2, 0.4), prompts="new.txt"))
    assert (row["mean_before"], row["paired"], row["regressed"]) == (10.0, True, True)


def test_a_file_of_prompts_that_was_changed_is_compared_by_its_means() -> None:
    series = Series()
    series.watch(scored(SCORES, prompts="new.txt"))
    row = series.watch(scored(fallen(0.2, 0.4), prompts="new.txt", kind="moon"))
    assert (row["mean_before"], row["paired"], row["regressed"]) == (10.0, False, False)
    assert row["fall"] == pytest.approx(0.3)
    assert series.watch(scored(fallen(9.0), prompts="new.txt", kind="moon"))["regressed"]
    assert series.watch(scored(fallen(0.2, 0.4), prompts="new.txt"))["paired"]  # the first prompts again


def test_without_what_was_remembered_means_are_compared() -> None:
    series = Series()
    series.watch(scored(SCORES, prompts="new.txt"))
    series.remembered = []
    row = series.watch(scored(fallen(9.0), prompts="new.txt"))
    assert (row["mean_before"], row["paired"], row["regressed"]) == (10.0, False, True)
    assert series.remembered == []  # that was not the first


@pytest.mark.parametrize(("prompts", "scorer"), [("other.txt", "0123"), ("new.txt", "4567")])
def test_another_prompt_set_or_reward_begins_anew(prompts: str, scorer: str) -> None:
    series = Series()
    series.watch(scored(SCORES, prompts="new.txt"))
    assert series.watch(scored(fallen(3.0), prompts=prompts, scorer=scorer))["mean_before"] == 7.0


def test_another_release_begins_anew() -> None:
    series, later = Series(), Series("def")
    later.rows = [series.watch(scored(SCORES, prompts="new.txt"))]
    assert later.watch(scored(fallen(3.0), prompts="new.txt"))["mean_before"] == 7.0


def test_a_reward_that_the_release_was_not_scored_by_is_compared_with_its_first_watch() -> None:
    series = Series()
    series.watch(scored(SCORES))
    row = series.watch(scored(fallen(0.2, 0.4)))
    assert (row["prompts"], row["paired"], row["regressed"]) == ("evaluation", True, True)


@pytest.mark.parametrize("margin", ["-1", "nan"])
def test_a_margin_below_nothing_is_refused(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--margin", margin])
    assert f"expected 0 or more, got {margin}" in capsys.readouterr().err


def test_one_prompt_tells_nothing() -> None:
    one = scored(SCORES, prompts="one.txt")
    one["scores"]["preference"]["sem"] = None
    with pytest.raises(PromptError, match="has no standard error"):
        Series().watch(one)


# Real watches


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    with prefect_test_harness():
        yield


def test_a_champion_is_watched_by_its_scores(reproduced: Path, harness: None) -> None:
    release = find(open_store("file://published"), "latest")
    same = watch("latest")
    assert (same["release"], same["paired"], same["fall"], same["regressed"]) == (release, True, 0.0, False)
    folder = reproduced / ".distar" / "downloads" / "releases" / release
    raise_what_was_stated(folder, by=2 * same["allowed"])
    row = watch("latest")
    assert (row["paired"], row["regressed"]) == (True, True)
    assert row["fall"] == pytest.approx(2 * same["allowed"])
    assert row["fall"] < 3 * math.hypot(row["sem"], row["sem_before"])  # the means alone would not tell


def test_other_prompts_are_remembered_beside_the_release(reproduced: Path, harness: None) -> None:
    release, prompts = find(open_store("file://published"), "latest"), reproduced / "new.txt"
    prompts.write_text("a red star on white\na teal moon on sand\na red moon\n")
    rows = [watch("latest", prompts="file://new.txt") for _ in range(2)]
    assert [(row["prompts"], row["paired"], row["regressed"]) for row in rows] == [
        (str(prompts), False, False),
        (str(prompts), True, False),
    ]
    assert rows[1]["fall"] == 0.0
    (first,) = json.loads((reproduced / f".distar/downloads/releases/{release}.json").read_text())
    assert [prompt for prompt, _, _ in first["scores"]] == prompts.read_text().splitlines()
    prompts.write_text("a teal star on white\na teal moon on sand\na red moon\n")
    row = watch("latest", prompts="file://new.txt")
    assert (row["mean_before"], row["paired"]) == (rows[0]["mean"], False)
    assert git(reproduced, "status", "--porcelain") == "?? new.txt\n"


def raise_what_was_stated(folder: Path, by: float) -> None:
    """Make a release say that its pictures of every prompt scored higher than they do."""
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["generator_preference"] = str(float(row["generator_preference"]) + by)
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["generator"]["rewards"]["preference"]["mean"] += by
    (folder / "metrics.json").write_text(json.dumps(metrics))
