"""Random numbers that depend on what they are for, and on nothing that ran before.

Every draw comes from a generator of its own, seeded from (seed, step, purpose). A run that was killed
and resumed therefore draws the same numbers as one that was not, and adding a draw somewhere does not move the draws
elsewhere. Processes draw the same and take their shares, so their number does not move them either.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *parts: int | str) -> int:
    """Hash a root seed and its qualifiers to a 63-bit seed; any change gives an unrelated one."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Make the CPU generator of one purpose at one step.

    Noise is drawn on the CPU and moved, so that a seed names the same noise on every device.
    """
    return torch.Generator().manual_seed(derive_seed(seed, purpose, step, 0))
