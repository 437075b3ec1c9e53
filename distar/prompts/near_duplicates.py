"""Near duplicates: prompts whose word pairs are mostly the same."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise


def find_near_duplicates(keys: Sequence[str], threshold: float) -> dict[int, int]:
    """Find each prompt that resembles an earlier one which stays; return its position with that one's.

    Two prompts resemble each other if the Jaccard similarity of their sets of word pairs reaches the threshold,
    which lies in (0, 1]; the single word of a one-word prompt stands for a pair. The result is exact, as if every
    two had been compared: sets as similar as that share one of their rarest pairs (prefix filtering, Chaudhuri,
    Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007), so only prompts that do are compared.
    """
    sets = [_word_pairs(key) for key in keys]
    frequency = Counter(pair for pairs in sets for pair in pairs)
    kept_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for i, pairs in enumerate(sets):
        # Similar sets share threshold * size pairs at least, so one of any this many; 1e-9 outweighs rounding errors
        num_rarest = len(pairs) - math.ceil(threshold * len(pairs) - 1e-9) + 1
        rarest = sorted(pairs, key=lambda pair: (frequency[pair], pair))[:num_rarest]
        candidates = sorted({j for pair in rarest for j in kept_with[pair]})
        similar = next((j for j in candidates if _jaccard(pairs, sets[j]) >= threshold), None)
        if similar is not None:
            found[i] = similar
            continue
        for pair in rarest:
            kept_with[pair].append(i)
    return found


def _word_pairs(key: str) -> frozenset[tuple[str, ...]]:
    words = key.split()
    return frozenset(pairwise(words) if len(words) > 1 else [tuple(words)])


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
