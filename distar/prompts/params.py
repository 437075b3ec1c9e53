"""Where prompts come from, and what is filtered out of them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from distar.model_files import ModelFiles
from distar.prompts import HPSV2_STYLES

WATCHED_FOLDERS = ("prompts", "models/tiny/prompts")

PromptFormat = Literal["text", "jsonl", "csv", "parquet", "hpsv2", "parti", "coco", "pickle_list"]

_WITH_COLUMN = ("jsonl", "csv", "parquet")


def _watched(source: str) -> str:
    if not source.startswith("file://"):
        return source
    path = PurePosixPath(source.removeprefix("file://"))
    if ".." in path.parts or not any(path.is_relative_to(folder) for folder in WATCHED_FOLDERS):
        raise ValueError(
            f"a local prompt file must lie under {' or '.join(f'{folder}/' for folder in WATCHED_FOLDERS)}, where "
            f"dvc.yaml watches it; move it there and write file://{WATCHED_FOLDERS[0]}/{path.name or 'NAME'}"
        )
    return source


def _local(source: str) -> str:
    if not source.startswith("file://"):
        raise ValueError(f"a block list is a local file; expected file://{WATCHED_FOLDERS[0]}/NAME")
    return source


class PromptSourceParams(BaseModel):
    """A prompt set's source, its filters, and how many prompts to take of what they leave."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    source: Annotated[str, AfterValidator(_watched)]
    format: PromptFormat
    column: str | None = None  # no hidden choice: the formats that need it refuse None, the others all else
    licence: str
    block_list: Annotated[str, AfterValidator(_watched), AfterValidator(_local)] | None
    drop_duplicates: bool
    near_duplicate_threshold: float | None = Field(gt=0, le=1)
    max_prompts: int | None = Field(gt=0)

    @model_validator(mode="after")
    def _column_where_needed(self) -> PromptSourceParams:
        if self.format in _WITH_COLUMN and self.column is None:
            raise ValueError(f"column is missing: the format {self.format!r} needs the name of the prompts' column")
        if self.format not in _WITH_COLUMN and self.column is not None:
            raise ValueError(
                f"column is {self.column!r}, but the format {self.format!r} has no columns to choose from; remove it "
                f"({', '.join(_WITH_COLUMN)} have)"
            )
        return self

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The files of the source that its format reads; none if it is local, where DVC watches it."""
        if self.source.startswith("file://"):
            return {}
        match self.format:
            case "parquet":
                patterns = ("*.parquet",)
            case "hpsv2":
                patterns = tuple(f"{style}.json" for style in HPSV2_STYLES)
            case _:
                patterns = ("*",)
        return {"": ModelFiles(self.source, patterns)}


class PromptParams(BaseModel):
    """The prompts that the generator is trained on, and those that it is evaluated on.

    A prompt of both is an error (`refuse`), or is taken out of training (`drop_from_train`).
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    on_overlap: Literal["refuse", "drop_from_train"]
    train: PromptSourceParams
    evaluation: PromptSourceParams

    @property
    def sources(self) -> dict[str, PromptSourceParams]:
        """Both sources by their set's name."""
        return {"train": self.train, "evaluation": self.evaluation}
