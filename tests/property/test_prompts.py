"""Prompt sources of any content: clean, distinct, in order, and every prompt accounted for."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distar.errors import PromptError
from distar.prompts import load_labels, load_prompts, write_prompts
from distar.prompts.cleaning import clean, fold
from distar.prompts.near_duplicates import find_near_duplicates
from distar.prompts.params import PromptSourceParams
from distar.prompts.sets import filtered_set

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=30), max_size=20)
CAPTIONS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=24).map(" ".join), max_size=12)


@given(st.text())
@example("e\x00\u0301")  # the accent meets its letter only once the control character is gone
@example(" \ud800a\x1c\tb\u2028 ")
@settings(max_examples=300, deadline=None)
def test_cleaning_is_idempotent(text: str) -> None:
    prompt = clean(text)
    assert clean(prompt) == prompt == " ".join(prompt.split())
    assert unicodedata.is_normalized("NFC", prompt)
    assert {unicodedata.category(character) for character in prompt}.isdisjoint({"Cc", "Cs"})


@given(st.text().map(clean))
@settings(max_examples=300, deadline=None)
def test_folding_leaves_something_of_every_prompt(prompt: str) -> None:
    assert bool(fold(prompt)) == bool(prompt)


@given(st.text().map(clean))
@settings(max_examples=300, deadline=None)
def test_folding_is_idempotent(prompt: str) -> None:
    assert fold(fold(prompt)) == fold(prompt)


@pytest.mark.parametrize("text", ["\u200b", " \u2060 \ufeff", "\u202e\u202c", "\u3164", "\x00\x1b", "\ud800"])
def test_text_that_shows_nothing_is_empty(text: str) -> None:
    assert clean(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "a \x1b[31mred\x1b[0m star",
        "\x1b]0;title\x07a red star",
        "a \u202ered\u202c \u2066star\u2069",
        "\ufeffa red \ufeffstar",
    ],
)
def test_what_only_a_terminal_sees_is_dropped_whole(text: str) -> None:
    assert clean(text) == "a red star"


def test_cleaning_leaves_what_shows_as_it_is() -> None:
    shown = "ａ r\u200bed \U0001f469\u200d\U0001f680 star\u200f"
    assert clean(shown) == shown


@given(LINES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_clean_distinct_prompts_or_an_error(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\n".join([*lines, ""]).encode())
    params = PromptSourceParams(
        source="file://prompts/prompts.txt",
        format="text",
        licence="",
        block_list=None,
        drop_duplicates=True,
        near_duplicate_threshold=0.5,
        max_prompts=None,
    )
    expected = [clean(line) for line in lines]
    try:
        prompts = filtered_set(path, params, block_list=None)
    except PromptError:
        assert not any(expected)
        return
    kept = list(prompts.prompts)
    assert kept == [prompt for prompt in dict.fromkeys(expected) if prompt in set(kept)]
    assert len({fold(prompt) for prompt in kept}) == len(kept)
    assert Counter(kept) + Counter(drop.prompt for drop in prompts.dropped) == Counter(expected or [""])
    assert all(drop.match in kept for drop in prompts.dropped if drop.reason == "near_duplicate")
    write_prompts(tmp_path / "prompts.parquet", prompts.prompts, prompts.labels)
    assert load_prompts(tmp_path / "prompts.parquet") == prompts.prompts
    assert load_labels(tmp_path / "prompts.parquet") == (None,) * len(kept)


@given(CAPTIONS, st.sampled_from([0.1, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0]))
@settings(max_examples=400, deadline=None)
def test_near_duplicates_are_those_of_comparing_every_two(captions: list[str], threshold: float) -> None:
    assert find_near_duplicates(captions, threshold) == near_duplicates_by_brute_force(captions, threshold)


def near_duplicates_by_brute_force(captions: list[str], threshold: float) -> dict[int, int]:
    def pairs(caption: str) -> set[tuple[str, ...]]:
        words = caption.split()
        return {(words[i], words[i + 1]) for i in range(len(words) - 1)} or {(words[0],)}

    found: dict[int, int] = {}
    for i, caption in enumerate(captions):
        for j in range(i):
            shared, united = pairs(caption) & pairs(captions[j]), pairs(caption) | pairs(captions[j])
            if j not in found and len(shared) / len(united) >= threshold:
                found[i] = j
                break
    return found


def test_a_similarity_equal_to_the_threshold_counts() -> None:
    """0.56 * 25 is 14.000000000000002 in floating point: 14 shared pairs of 25 must still be found."""
    words = [f"w{i}" for i in range(26)]
    assert find_near_duplicates([" ".join(words), " ".join(words[11:])], 0.56) == {1: 0}
    assert find_near_duplicates([" ".join(words), " ".join(words[12:])], 0.56) == {}


def test_resembling_a_dropped_prompt_is_no_reason() -> None:
    chain = ["a b c d e f", "b c d e f g", "c d e f g h"]
    assert find_near_duplicates(chain, 0.6) == {1: 0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Red Star!", "a red star"),
        ("t-shirt, blue", "T shirt blue"),
        ("Straße", "STRASSE"),
        ("“moon”", '"moon"'),
        ("ａ ｒｅｄ ｓｔａｒ！", "a red star"),
        ("a\u3000red\u00a0star", "a red star"),
        ("a r\u200bed st\u2060ar\ufeff", "a red star"),
        ("\u202ea red star\u202c\u200f", "a red star"),
        ("a re\u00add \ufe0fstar\u034f", "a red star"),
        ("ﬁne oﬃce", "fine office"),
        ("ｶﾞﾗｽ", "ガラス"),
        ("①", "1"),
        ("K", "\u212a"),
        ("café", "cafe\u0301"),
    ],
)
def test_what_reads_the_same_folds(one: str, other: str) -> None:
    assert fold(clean(one)) == fold(clean(other))


@pytest.mark.parametrize(("one", "other"), [("?!", "..."), ("a + b", "a - b"), ("2 moons", "3 moons"), ("ab", "a b")])
def test_what_makes_a_difference_does_not_fold(one: str, other: str) -> None:
    assert fold(clean(one)) != fold(clean(other))
