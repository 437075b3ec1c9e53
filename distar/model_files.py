"""Which files of which source a component needs."""

from __future__ import annotations

from typing import NamedTuple


class ModelFiles(NamedTuple):
    """A source (`file://`, `hf://`, `s3://`: a folder, or one file) and the files of it that are needed.

    `patterns` are shell patterns of paths below the source's folder; `*` matches `/` too.
    """

    source: str
    patterns: tuple[str, ...] = ("*",)
