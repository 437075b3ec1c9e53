"""Text that strangers may have written, made fit for a terminal."""

from __future__ import annotations

from rich.text import Text


def printable(text: str) -> str:
    """Return a text without control characters, which could steer a terminal: they are shown as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich to print as it is, whatever markup it seems to hold."""
    return Text(printable(text), style)
