"""Prompt sources of any content: clean, distinct, in order, and hashed by content alone."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distar.errors import PromptError
from distar.prompts import load_prompts, read_source

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=20)


@given(LINES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_clean_distinct_prompts_or_an_error(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\n".join(lines).encode())
    try:
        prompts = read_source(path, None)
    except PromptError:
        assert not "".join(lines).split()
        return
    assert len(set(prompts.prompts)) == len(prompts.prompts) == prompts.num_read - prompts.num_duplicates
    for prompt in prompts.prompts:
        assert prompt == " ".join(prompt.split()) == unicodedata.normalize("NFC", prompt)
        assert prompt
    prompts.write(tmp_path / "prompts.parquet")
    assert load_prompts(tmp_path / "prompts.parquet") == prompts.prompts


def test_maximum_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\na\nc\n")
    prompts = read_source(path, 2)
    assert prompts.prompts == ("a", "b")
    assert prompts.num_duplicates == 1


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(PromptError, match="holds no prompt"):
        read_source(path, None)
