"""Which files of which source a component needs."""

from __future__ import annotations

from typing import NamedTuple

LICENCE_TEXTS = ("LICENSE*", "NOTICE*")
"""Patterns of the files in which a source ships its licence."""


class ModelFiles(NamedTuple):
    """A source (`file://`, `hf://`, `s3://`: a folder, or one file) and the files of it that are needed.

    `patterns` are shell patterns of paths below the source's folder, each of which some file must match; `*` matches
    `/` too. Files that match `optional` are taken where there are any.
    """

    source: str
    patterns: tuple[str, ...] = ("*",)
    optional: tuple[str, ...] = ()
