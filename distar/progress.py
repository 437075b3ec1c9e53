"""Progress of long work: bars with rate and remaining time on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal as bytes_text
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from distar.launch import process_index

_SECONDS_BETWEEN_LINES = 15.0

console = Console(stderr=True)


class Tracker:
    """Counts what is done of one piece of work; made by `track`."""

    def __init__(
        self, description: str, total: int, completed: int, bar: Progress | None, shown: Callable[[int | float], str]
    ) -> None:
        self._description = description
        self._total = total
        self._bar = bar
        self._shown = shown
        self._task = bar.add_task(description, total=total, completed=completed, note="") if bar else None
        self._completed = self._first = completed
        self._start = self._last_line = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more as done, with a note such as the current reward."""
        self._completed += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._completed, note=note)
            return
        now = time.monotonic()
        if process_index() == 0 and (now - self._last_line >= _SECONDS_BETWEEN_LINES or self._completed >= self._total):
            self._last_line = now
            rate = (self._completed - self._first) / max(now - self._start, 1e-9)
            remaining = (self._total - self._completed) / max(rate, 1e-9)
            print(
                f"{self._description}: {self._shown(self._completed)}/{self._shown(self._total)}, "
                f"{self._shown(rate)}/s, {remaining:.0f} s left  {note}",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def track(description: str, total: int, completed: int = 0, in_bytes: bool = False) -> Iterator[Tracker]:
    """Show the progress of `total` units of work, or bytes, of which `completed` were done before.

    Of several processes of one stage the first alone shows its own part.
    """
    shown = (lambda amount: bytes_text(int(amount))) if in_bytes else _number_text
    first = process_index() == 0
    if not console.is_terminal or not first:
        if completed and first:
            print(f"{description}: goes on from {shown(completed)}/{shown(total)}", file=sys.stderr, flush=True)
        yield Tracker(description, total, completed, None, shown)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TransferSpeedColumn() if in_bytes else _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Tracker(description, total, completed, bar, shown)


def _number_text(amount: int | float) -> str:
    return str(amount) if isinstance(amount, int) else f"{amount:.2f}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("-/s" if task.speed is None else f"{task.speed:.2f}/s", style="cyan")
