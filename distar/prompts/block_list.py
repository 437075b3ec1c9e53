"""Block lists: words and patterns that no prompt may hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import regex

from distar.errors import PromptError
from distar.prompts.cleaning import clean, unmasked
from distar.prompts.text import read_lines

_PATTERN_SECONDS = 1.0


class BlockListEntry(NamedTuple):
    """A line of a block list: a word or words, or a /pattern/."""

    text: str
    place: str
    pattern: regex.Pattern[str]
    seconds: float | None  # words need no limit, and are ten times faster without

    def matches(self, prompt: str) -> bool:
        """Say whether a clean prompt holds the entry.

        Raises:
            PromptError: the pattern takes longer than a second on this prompt.
        """
        try:
            return self.pattern.search(prompt, timeout=self.seconds) is not None
        except TimeoutError:
            raise PromptError(
                f"{self.place}: the pattern {self.text} takes over {self.seconds} s on the prompt {prompt[:80]!r}; "
                "write it without nested repetition"
            ) from None


def read_block_list(path: Path) -> tuple[BlockListEntry, ...]:
    """Read a block list: a word, words or a /pattern/ (as of the package `regex`) a line, `#` before a comment.

    Words match as whole words, in any case; a pattern matches anywhere, in the case that it is written in.

    Raises:
        PromptError: the file is missing or not UTF-8, or a pattern is invalid or matches everything.
    """
    if not path.is_file():
        raise PromptError(f"the block list {path} does not exist; check `block_list` in the profile's prompts")
    texts = [clean(line) for line in read_lines(path)]
    return tuple(
        _entry(text, f"{path}, line {number}")
        for number, text in enumerate(texts, start=1)
        if text and not text.startswith("#")
    )


def find_blocked(entries: Sequence[BlockListEntry], prompts: Sequence[str]) -> dict[int, list[str]]:
    """Find the prompts that hold an entry; return the entries' texts by the prompt's position.

    Raises:
        PromptError: a pattern takes longer than a second on a prompt.
    """
    found = {}
    for i, prompt in enumerate(prompts):
        forms = dict.fromkeys((prompt, unmasked(prompt)))  # a character that is not seen hides no word
        found[i] = [entry.text for entry in entries if any(entry.matches(form) for form in forms)]
    return {i: texts for i, texts in found.items() if texts}


def _entry(text: str, place: str) -> BlockListEntry:
    if not (len(text) > 2 and text.startswith("/") and text.endswith("/")):
        whole_words = regex.compile(rf"(?<!\w){regex.escape(text)}(?!\w)", regex.IGNORECASE)
        return BlockListEntry(text, place, whole_words, seconds=None)
    try:
        pattern = regex.compile(text[1:-1])
    except regex.error as error:
        raise PromptError(f"{place}: the pattern {text} is invalid: {error}; correct it") from None
    entry = BlockListEntry(text, place, pattern, _PATTERN_SECONDS)
    if entry.matches(""):
        raise PromptError(f"{place}: the pattern {text} matches the empty text, so every prompt; make it narrower")
    return entry
