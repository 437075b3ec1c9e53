"""Prompt sets: read, clean, deduplicate, check, write. A prompt set is a parquet file and a card beside it."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from distar.errors import PromptError


class PromptSourceParams(BaseModel):
    """A text file with a prompt on each line, and how many of them to take."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    source: str
    licence: str
    max_prompts: int | None = Field(gt=0)


class PromptParams(BaseModel):
    """The prompts that the generator is trained on, and those that it is evaluated on."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    train: PromptSourceParams
    evaluation: PromptSourceParams


@dataclass(frozen=True)
class PromptSet:
    """Clean, distinct prompts in a fixed order."""

    prompts: tuple[str, ...]
    num_read: int
    num_duplicates: int

    @property
    def sha256(self) -> str:
        """Hash of the prompts, one a line: the name of this set wherever lineage is told."""
        return hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the prompts as parquet with one column, `prompt`."""
        pq.write_table(pa.table({"prompt": list(self.prompts)}), path)


def read_source(path: Path, max_prompts: int | None) -> PromptSet:
    """Read a text file: Unicode NFC, white space folded, empty lines and duplicates dropped.

    Raises:
        PromptError: the file is missing, not UTF-8, or holds no prompt.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise PromptError(f"the prompt file {path} does not exist; check `source` in the profile's prompts") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError(
            f"the prompt file {path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}, "
            f"line {line}; convert it, for example with `iconv -f latin1 -t utf-8`"
        ) from None
    lines = [" ".join(unicodedata.normalize("NFC", line).split()) for line in text.splitlines()]
    prompts = [line for line in lines if line]
    if not prompts:
        raise PromptError(f"the prompt file {path} holds no prompt; one a line is expected")
    distinct = list(dict.fromkeys(prompts))
    return PromptSet(tuple(distinct[:max_prompts]), len(prompts), len(prompts) - len(distinct))


def load_prompts(path: Path) -> tuple[str, ...]:
    """Read the prompts of a set written by `PromptSet.write`."""
    return tuple(pq.read_table(path, columns=["prompt"]).column("prompt").to_pylist())


def load_labels(path: Path) -> tuple[str | None, ...]:
    """Read the prompts' labels (a style, a category); None where a prompt has none."""
    table = pq.read_table(path)
    return tuple(table.column("label").to_pylist()) if "label" in table.column_names else (None,) * len(table)
