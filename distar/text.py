"""Text that strangers may have written, made fit for a terminal."""

from __future__ import annotations

from rich.text import Text

from distar.printable import printable

MOST_ROWS = 200
"""How many rows of a table a terminal shows: strangers may have made it long, and rich takes its time."""


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich to print as it is, whatever markup it seems to hold, without control characters."""
    return Text(printable(text), style)


def more_told(number: int) -> list[Text]:
    """Tell of a table's rows how many are not shown, if there are any such."""
    return [Text(f"… and {number - MOST_ROWS} more; --json has all", "dim")] * (number > MOST_ROWS)
