"""Text that strangers may have written, made fit for a terminal."""

from __future__ import annotations

from rich.text import Text

from distar.printable import printable


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich to print as it is, whatever markup it seems to hold, without control characters."""
    return Text(printable(text), style)
