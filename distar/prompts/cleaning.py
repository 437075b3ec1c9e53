"""Clean a prompt, and fold it to the key by which two prompts count as the same."""

from __future__ import annotations

import unicodedata

import regex

_CONTROLS = {
    code: None
    for code in [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]  # lone surrogates have no UTF-8
    if not chr(code).isspace()
}
_SEPARATORS = regex.compile(r"[\p{P}\s]+")


def clean(text: str) -> str:
    """Drop control characters, fold white space, and compose characters (Unicode NFC)."""
    return unicodedata.normalize("NFC", " ".join(text.translate(_CONTROLS).split()))


def fold(prompt: str) -> str:
    """Make the key of a clean prompt: without case and punctuation, words separated by one space.

    A prompt of nothing but punctuation is its own key.
    """
    folded = unicodedata.normalize("NFC", prompt.casefold())
    return _SEPARATORS.sub(" ", folded).strip() or folded
