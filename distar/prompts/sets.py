"""Make a prompt set of a source: clean it, filter it, and account for every prompt that is left out."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from distar.errors import PromptError
from distar.prompts.block_list import find_blocked, read_block_list
from distar.prompts.cleaning import clean, fold
from distar.prompts.formats import Entry, read_entries
from distar.prompts.near_duplicates import find_near_duplicates
from distar.prompts.params import PromptSourceParams


class FilterCount(NamedTuple):
    """How many prompts a filter was given, and how many it left."""

    filter: str
    before: int
    after: int


class Dropped(NamedTuple):
    """A prompt that a filter dropped; `match` is the entry or the kept prompt that it fell to."""

    prompt: str
    reason: str
    match: str


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, and what became of the rest of their source."""

    source: str
    entries: tuple[Entry, ...]
    filters: tuple[FilterCount, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    block_list_hits: Mapping[str, int] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts alone."""
        return tuple(entry.prompt for entry in self.entries)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The label of each prompt."""
        return tuple(entry.label for entry in self.entries)

    @property
    def sha256(self) -> str:
        """Hash of the prompts, one a line: the name of this set wherever lineage is told."""
        return hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()

    def without(self, reason: str, matches: Mapping[int, str]) -> PromptSet:
        """Drop the prompts at some positions, each with what it fell to.

        Raises:
            PromptError: no prompt is left.
        """
        kept = tuple(entry for i, entry in enumerate(self.entries) if i not in matches)
        dropped = tuple(Dropped(self.entries[i].prompt, reason, match) for i, match in matches.items())
        if not kept:
            raise PromptError(
                f"{self.source} holds no prompt"
                + (f" but those that the filter `{reason}` drops ({len(dropped)}); loosen it" if self.filters else "")
                + "; check `source` and `format` in the profile's prompts"
            )
        count = FilterCount(reason, len(self.entries), len(kept))
        return replace(self, entries=kept, filters=(*self.filters, count), dropped=(*self.dropped, *dropped))

    def first(self, max_prompts: int | None) -> PromptSet:
        """Take the first `max_prompts`; the rest is counted, but does not pass for dropped."""
        entries = self.entries[:max_prompts]
        count = FilterCount("max_prompts", len(self.entries), len(entries))
        return replace(self, entries=entries, filters=(*self.filters, count))

    def without_those_of(self, other: PromptSet) -> PromptSet:
        """Drop the prompts that the other set has too, up to case and punctuation.

        Raises:
            PromptError: no prompt is left.
        """
        return self.without("in_evaluation", dict(self._shared_with(other)))

    def check_disjoint(self, evaluation: PromptSet) -> None:
        """Refuse training prompts that are evaluated on, up to case and punctuation.

        Raises:
            PromptError: there are some; the message names the first.
        """
        shared = self._shared_with(evaluation)
        if shared:
            raise PromptError(
                f"{len(shared)} prompts stand in both prompts.train and prompts.evaluation, the first is "
                f"{self.entries[min(shared)].prompt!r}; remove them from one, or set prompts.on_overlap to "
                "drop_from_train: an evaluation on training prompts measures memory"
            )

    def _shared_with(self, other: PromptSet) -> dict[int, str]:
        theirs = {fold(prompt): prompt for prompt in other.prompts}
        keys = [fold(prompt) for prompt in self.prompts]
        return {i: theirs[key] for i, key in enumerate(keys) if key in theirs}


def filtered_set(path: Path, params: PromptSourceParams, block_list: Path | None) -> PromptSet:
    """Read a source and drop, in this order, what is empty, blocked, a duplicate or a near duplicate.

    Duplicates are prompts that differ in case and punctuation alone; of those, as of near duplicates, the first stays.

    Raises:
        PromptError: the source or the block list cannot be used, or no prompt is left.
    """
    entries = tuple(Entry(clean(prompt), label) for prompt, label in read_entries(path, params))
    prompts = PromptSet(params.source, entries)
    prompts = prompts.without("empty", {i: "" for i, entry in enumerate(entries) if not entry.prompt})
    if block_list is not None:
        prompts = _without_blocked(prompts, block_list)
    if params.drop_duplicates:
        prompts = prompts.without("duplicate", _duplicates(prompts.prompts))
    if params.near_duplicate_threshold is not None:
        found = find_near_duplicates([fold(prompt) for prompt in prompts.prompts], params.near_duplicate_threshold)
        prompts = prompts.without("near_duplicate", {i: prompts.prompts[j] for i, j in found.items()})
    return prompts


def write_dropped(path: Path, sets: Mapping[str, PromptSet]) -> None:
    """Write every prompt that a filter dropped as CSV: its set, the reason, and what it fell to."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "prompt", "reason", "match"])
        writer.writerows((name, *dropped) for name, prompts in sets.items() for dropped in prompts.dropped)


def card_of(prompts: PromptSet, params: PromptSourceParams) -> dict[str, Any]:
    """Describe a set: where it is from, what each filter left, and what it holds."""
    return {
        "source": params.source,
        "licence": params.licence,
        "num_prompts": len(prompts.entries),
        "sha256": prompts.sha256,
        "filters": [count._asdict() for count in prompts.filters],
        "block_list_hits": prompts.block_list_hits,
        "labels": dict(sorted(Counter(label for label in prompts.labels if label is not None).items())),
    }


def _without_blocked(prompts: PromptSet, block_list: Path) -> PromptSet:
    entries = read_block_list(block_list)
    found = find_blocked(entries, prompts.prompts)
    hits = Counter(text for texts in found.values() for text in texts)
    remaining = prompts.without("block_list", {i: texts[0] for i, texts in found.items()})
    return replace(remaining, block_list_hits={entry.text: hits[entry.text] for entry in entries})


def _duplicates(prompts: Sequence[str]) -> dict[int, str]:
    first: dict[str, int] = {}
    keys = [fold(prompt) for prompt in prompts]
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return {i: prompts[first[key]] for i, key in enumerate(keys) if first[key] != i}
