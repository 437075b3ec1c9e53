"""What the prompt stage leaves out, and how it accounts for it; the lengths of prompts for a real tokenizer."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distar import paths
from distar.__main__ import main
from distar.errors import PromptError
from distar.prompts import load_labels, load_prompts
from distar.prompts.block_list import find_blocked, read_block_list
from tests.miniature import edit

PROFILE = Path("profiles/mini.yaml")
TRAIN = """\
a red star on a white background

A red star, on a white background!
a teal moon
a teal moon with a sword
an icon of a red star on a white background
a red moon on sand
a blue ring
"""


def blocked(tmp_path: Path, block_list: str, prompts: list[str]) -> dict[int, list[str]]:
    (tmp_path / "blocked.txt").write_text(block_list)
    return find_blocked(read_block_list(tmp_path / "blocked.txt"), prompts)


def test_words_match_whole_and_in_any_case(tmp_path: Path) -> None:
    prompts = [
        "a SWORD",
        "swordfish",
        "a sword-fish",
        "red star",
        "a starred red",
        "c++ code",
        "c+",
    ]
    found = blocked(tmp_path, "# weapons\nsword\n\nred  star\nC++\n", prompts)
    assert found == {0: ["sword"], 2: ["sword"], 3: ["red star"], 5: ["C++"]}


def test_patterns_match_anywhere_in_their_own_case(tmp_path: Path) -> None:
    found = blocked(tmp_path, "/sw[o0]rd/\n/(?i)GUN$/\nfish\n", ["swordfish fish", "a Gun", "Sword", "guns"])
    assert found == {0: ["/sw[o0]rd/", "fish"], 1: ["/(?i)GUN$/"]}


@pytest.mark.parametrize(
    ("block_list", "expected"),
    [
        ("sword\n/a(/\n", ["line 2", "/a(/", "invalid", "missing )"]),
        ("/x*/\n", ["line 1", "/x*/", "every prompt"]),
        ("# slow\n/(a|aa)+$/\n", ["line 2", "/(a|aa)+$/", "1.0 s", "aaaa", "nested repetition"]),
    ],
)
def test_unusable_pattern_is_named_with_its_line(tmp_path: Path, block_list: str, expected: list[str]) -> None:
    with pytest.raises(PromptError) as caught:
        blocked(tmp_path, block_list, ["a" * 60 + " b"])
    for text in ["blocked.txt", *expected]:
        assert text in str(caught.value)


@pytest.fixture
def filtering(project: Path) -> Path:
    """A miniature project with every filter in use."""
    Path("prompts/train.txt").write_text(TRAIN)
    Path("prompts/evaluation.txt").write_text("A red moon, on sand.\na lime square\n")
    Path("prompts/blocked.txt").write_text("sword\ngun\n")
    edit(PROFILE, "prompts", "on_overlap", value="drop_from_train")
    edit(PROFILE, "prompts", "train", "block_list", value="file://prompts/blocked.txt")
    edit(PROFILE, "prompts", "train", "near_duplicate_threshold", value=0.5)
    edit(PROFILE, "prompts", "train", "max_prompts", value=2)
    return project


def card() -> dict[str, Any]:
    return json.loads(paths.PROMPTS_CARD.read_text())


def test_every_prompt_is_accounted_for(filtering: Path) -> None:
    assert main(["prompts"]) == 0
    assert load_prompts(paths.TRAIN_PROMPTS) == ("a red star on a white background", "a teal moon")
    assert [tuple(count.values()) for count in card()["train"]["filters"]] == [
        ("empty", 8, 7),
        ("block_list", 7, 6),
        ("duplicate", 6, 5),
        ("near_duplicate", 5, 4),
        ("in_evaluation", 4, 3),
        ("max_prompts", 3, 2),
    ]
    assert card()["train"]["block_list_hits"] == {"sword": 1, "gun": 0}
    with paths.DROPPED_PROMPTS.open(newline="") as file:
        rows = list(csv.reader(file))
    star = "a red star on a white background"
    assert rows == [
        ["set", "prompt", "reason", "match"],
        ["train", "", "empty", ""],
        ["train", "a teal moon with a sword", "block_list", "sword"],
        ["train", "A red star, on a white background!", "duplicate", star],
        ["train", "an icon of a red star on a white background", "near_duplicate", star],
        ["train", "a red moon on sand", "in_evaluation", "A red moon, on sand."],
    ]


def test_outputs_come_out_the_same_twice(filtering: Path) -> None:
    def outputs() -> dict[str, bytes]:
        assert main(["prompts"]) == 0
        return {path.name: path.read_bytes() for path in paths.PROMPTS.iterdir()}

    assert outputs() == outputs()
    assert set(outputs()) == {"train.parquet", "evaluation.parquet", "card.json", "dropped.csv"}


def test_labels_are_kept_and_counted(filtering: Path) -> None:
    rows = ["Prompt\tCategory\tChallenge", "a star\tArts\tBasic", "a dog\tAnimals\tBasic", "a cat\tAnimals\tBasic"]
    Path("prompts/parti.tsv").write_text("\n".join(rows) + "\n")
    edit(PROFILE, "prompts", "evaluation", "source", value="file://prompts/parti.tsv")
    edit(PROFILE, "prompts", "evaluation", "format", value="parti")
    assert main(["prompts"]) == 0
    assert load_prompts(paths.EVALUATION_PROMPTS) == ("a star", "a dog", "a cat")
    assert load_labels(paths.EVALUATION_PROMPTS) == ("Arts", "Animals", "Animals")
    assert card()["evaluation"]["labels"] == {"Animals": 2, "Arts": 1}


FATAL: dict[str, tuple[Callable[[], object], list[str]]] = {
    "overlap refused": (
        lambda: edit(PROFILE, "prompts", "on_overlap", value="refuse"),
        ["stand in both", "drop_from_train"],
    ),
    "all blocked": (
        lambda: Path("prompts/blocked.txt").write_text("a\nan\n"),
        ["train.txt holds no prompt but those that the filter `block_list` drops (7)", "loosen it"],
    ),
    "block list missing": (Path("prompts/blocked.txt").unlink, ["blocked.txt does not exist", "`block_list`"]),
    "block list not UTF-8": (
        lambda: Path("prompts/blocked.txt").write_bytes(b"sword\n\xe9\n"),
        ["blocked.txt is not UTF-8", "0xe9"],
    ),
    "column missing": (
        lambda: edit(PROFILE, "prompts", "train", "format", value="jsonl"),
        ["prompts.train", "column is missing", "'jsonl'"],
    ),
    "unwatched": (
        lambda: edit(PROFILE, "prompts", "train", "source", value="file://train.txt"),
        ["prompts.train.source", "must lie under prompts/", "file://prompts/train.txt"],
    ),
}


@pytest.mark.parametrize("case", FATAL)
def test_error_names_the_place_and_the_remedy(filtering: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "prompts", "train", "max_prompts", value=None)
    FATAL[case][0]()
    assert main(["prompts"]) == 1
    message = capsys.readouterr().err
    for text in FATAL[case][1]:
        assert text in message
    assert not paths.PROMPTS.exists()


def test_prompts_beyond_the_maximum_are_no_overlap(filtering: Path) -> None:
    edit(PROFILE, "prompts", "on_overlap", value="refuse")
    assert main(["prompts"]) == 0
