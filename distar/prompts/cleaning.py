"""Clean a prompt, and fold it to the key by which two prompts count as the same."""

from __future__ import annotations

import unicodedata

import regex

_CONTROLS = {
    code: None
    for code in [
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0xD800, 0xE000),  # lone surrogates have no UTF-8
        *range(0x202A, 0x202F),  # what turns the direction of writing shows another prompt than is encoded
        *range(0x2066, 0x206A),
        0xFEFF,  # a byte order mark
    ]
    if not chr(code).isspace()
}
_ESCAPES = regex.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\))"
)  # of a terminal: colours, titles
_SEPARATORS = regex.compile(r"[\p{P}\s]+")
_IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")


def clean(text: str) -> str:
    """Drop control characters, fold white space, and compose characters (Unicode NFC).

    A terminal's escape sequences, and what turns the direction of writing, count as control characters.
    Nothing is left of text that shows nothing.
    """
    cleaned = unicodedata.normalize("NFC", " ".join(_ESCAPES.sub("", text).translate(_CONTROLS).split()))
    return cleaned if unmasked(cleaned).strip() else ""


def unmasked(prompt: str) -> str:
    """Write a prompt in plain characters: compatible forms (full width, ligatures) as one, none that is not seen."""
    return unicodedata.normalize("NFKC", _IGNORABLE.sub("", unicodedata.normalize("NFKC", prompt)))


def fold(prompt: str) -> str:
    """Make the key of a clean prompt: unmasked, without case and punctuation, words separated by one space.

    A prompt of nothing but punctuation is its own key.
    """
    folded = prompt
    for _ in range(3):  # until nothing changes: what case folding leaves may be compatible with something else
        folded = unmasked(folded.casefold())
    return _SEPARATORS.sub(" ", folded).strip() or folded or prompt
