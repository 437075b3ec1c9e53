"""Prompt sets, as the later stages read them: a parquet file of prompts and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HPSV2_STYLES = ("anime", "concept-art", "paintings", "photo")
"""The labels of the HPSv2 benchmark's prompts."""


def write_prompts(path: Path, prompts: Sequence[str], labels: Sequence[str | None]) -> None:
    """Write prompts as parquet: `prompt`, and `label` (a style or a category; null where there is none)."""
    columns = {"prompt": pa.array(prompts, pa.string()), "label": pa.array(labels, pa.string())}
    pq.write_table(pa.table(columns), path)


def load_prompts(path: Path) -> tuple[str, ...]:
    """Read the prompts that `write_prompts` wrote."""
    return _column(path, "prompt")


def load_labels(path: Path) -> tuple[str | None, ...]:
    """Read the label of each prompt that `write_prompts` wrote."""
    return _column(path, "label")


def _column(path: Path, name: str) -> tuple[Any, ...]:
    with pq.ParquetFile(path) as file:  # pq.read_table imports pandas
        return tuple(file.read(columns=[name]).column(name).to_pylist())
