"""Text that a terminal prints and does not obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """Write what a terminal obeys, or what cannot be encoded, as escapes; line ends stay."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )
