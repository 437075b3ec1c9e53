"""What a verification checks, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["holds", "gap", "note"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked: it holds, it is a gap, or it is worth a note."""

    what: str
    outcome: Outcome
    detail: str
