"""Each format read from a small file of its own, and what is told when a file is not as it should be."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from distar.errors import PromptError
from distar.model_files import ModelFiles
from distar.prompts.formats import Entry, read_entries
from distar.prompts.params import PromptFormat, PromptSourceParams


def source_params(kind: PromptFormat = "text", column: str | None = None, **changed: Any) -> PromptSourceParams:
    values = {
        "source": "file://prompts/x",
        "format": kind,
        "column": column,
        "licence": "CC0-1.0",
        "block_list": None,
        "drop_duplicates": True,
        "near_duplicate_threshold": None,
        "max_prompts": None,
    }
    return PromptSourceParams.model_validate(values | changed)


def read(path: Path, kind: PromptFormat, column: str | None = None) -> list[Entry]:
    return read_entries(path, source_params(kind, column))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffa red star\r\n\na teal moon\n")
    assert [entry.prompt.strip() for entry in read(path, "text")] == ["a red star", "", "a teal moon"]


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a star", "id": 1}\n\n{"text": null}\n{"text": "caf\\u00e9"}\n')
    assert read(path, "jsonl", "text") == [Entry("a star"), Entry(""), Entry("café")]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_csv(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = ["id|caption", '1|"a star, red\nand a ""moon"""', "", "2|a ring"]
    path = write(tmp_path / name, "\r\n".join(rows).replace("|", delimiter) + "\r\n")
    assert read(path, "csv", "caption") == [Entry('a star, red\nand a "moon"'), Entry("a ring")]


def test_parquet_file_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"id": [3], "caption": pa.array(["c"], pa.large_string())}), folder / "part-1.parquet")
    pq.write_table(pa.table({"id": [1, 2], "caption": ["a", None]}), folder / "part-0.parquet")
    write(folder / "README.md", "not a prompt")
    assert read(folder, "parquet", "caption") == [Entry("a"), Entry(""), Entry("c")]
    assert read(folder / "part-1.parquet", "parquet", "caption") == [Entry("c")]


def test_hpsv2_labels_by_style(tmp_path: Path) -> None:
    for style in ("photo", "anime", "paintings", "concept-art"):
        write(tmp_path / f"{style}.json", json.dumps([f"{style} one", f"{style} two"]))
    styles = ["anime", "concept-art", "paintings", "photo"]
    assert read(tmp_path, "hpsv2") == [Entry(f"{s} {n}", s) for s in styles for n in ("one", "two")]


def test_parti_labels_by_category_and_takes_quotes_as_they_stand(tmp_path: Path) -> None:
    rows = [
        "Prompt|Category|Challenge|Note",
        '"Stop" on a sign|World Knowledge|Writing & Symbols|',
        "bond|Abstract|Basic|",
    ]
    path = write(tmp_path / "PartiPrompts.tsv", "\n".join(rows).replace("|", "\t") + "\n")
    assert read(path, "parti") == [Entry('"Stop" on a sign', "World Knowledge"), Entry("bond", "Abstract")]


def test_coco_takes_the_earliest_caption_of_each_image(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 9, "id": 40, "caption": "nine, later"},
        {"image_id": 9, "id": 4, "caption": "nine"},
        {"image_id": 2, "id": 50, "caption": "two"},
        {"image_id": 2, "id": 51, "caption": "two, later"},
    ]
    path = write(tmp_path / "captions.json", json.dumps({"images": [], "annotations": annotations}))
    assert read(path, "coco") == [Entry("two"), Entry("nine")]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_list(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "captions.pkl", pickle.dumps(["a star", "a café"], protocol))
    assert read(path, "pickle_list") == [Entry("a star"), Entry("a café")]


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_runs_nothing_of_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.pkl", pickle.dumps(["a star", _Payload(tmp_path / "touched")]))
    with pytest.raises(PromptError, match=r"asks for pathlib\S* ?\S*, which a list of strings has no need of"):
        read(path, "pickle_list")
    assert not (tmp_path / "touched").exists()
    pickle.loads(path.read_bytes())  # noqa: S301 -- it would have
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", ["text", "parti", "coco", "pickle_list"])
def test_a_folder_stands_for_its_only_file(tmp_path: Path, kind: PromptFormat) -> None:
    content = {
        "text": b"a star",
        "parti": b"Prompt\tCategory\na star\tArts",
        "coco": b'{"annotations": [{"image_id": 1, "id": 1, "caption": "a star"}]}',
        "pickle_list": pickle.dumps(["a star"]),
    }
    write(tmp_path / "fetched" / "sub" / "file", content[kind])
    assert [entry.prompt for entry in read(tmp_path / "fetched", kind)] == ["a star"]
    write(tmp_path / "fetched" / "other", b"")
    with pytest.raises(PromptError, match=r"holds 2 files \(other, sub/file\), where this format expects one"):
        read(tmp_path / "fetched", kind)


def parquet(column: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"caption": column}), sink)
    return sink.getvalue().to_pybytes()


BROKEN: dict[str, tuple[str, PromptFormat, str | None, str | bytes, list[str]]] = {
    "text that is not UTF-8": ("a.txt", "text", None, b"a\nb\n\xe9\n", ["a.txt", "0xe9", "line 3", "iconv"]),
    "JSON cut off": ("a.jsonl", "jsonl", "t", '{"t": "a"}\n{"t": \n', ["a.jsonl, line 2 is not JSON"]),
    "JSON without the column": ("a.jsonl", "jsonl", "t", '{"text": "a", "n": 1}', ["line 1", "'t'", "'text', 'n'"]),
    "JSON that is no object": ("a.jsonl", "jsonl", "t", '["a"]', ["line 1", "list", "object with the field 't'"]),
    "JSON with a number": ("a.jsonl", "jsonl", "t", '{"t": 3}', ["line 1: 't'", "int", "expected a string"]),
    "CSV without the column": ("a.csv", "csv", "t", "id,text\n1,a\n", ["a.csv, line 1", "'t'", "'id', 'text'"]),
    "CSV with a field too many": ("a.csv", "csv", "t", "id,t\n1,a, b\n", ["a.csv, line 2", "got 3", "expected 2"]),
    "CSV with a quote left open": ("a.csv", "csv", "t", 'id,t\n1,"a\n', ["a.csv, line 2", "unexpected end of data"]),
    "CSV under another name": ("a.txt", "csv", "t", "t\na\n", ["a.txt", ".csv or .tsv", "rename"]),
    "empty CSV": ("a.csv", "csv", "t", "", ["a.csv, line 1", "no column 't'", "none"]),
    "parquet that is none": ("a.parquet", "parquet", "caption", "text", ["a.parquet is not a readable parquet file"]),
    "parquet without the column": (
        "a.parquet",
        "parquet",
        "text",
        parquet(pa.array(["a"])),
        ["a.parquet", "'text'", "'caption'"],
    ),
    "parquet of numbers": (
        "a.parquet",
        "parquet",
        "caption",
        parquet(pa.array([1])),
        ["a.parquet", "'caption' holds int64", "strings"],
    ),
    "no style of HPSv2": ("b/a.json", "hpsv2", None, "[]", ["anime.json does not exist", "concept-art, paintings"]),
    "HPSv2 of objects": ("anime.json", "hpsv2", None, '[{"prompt": "a"}]', ["anime.json, item 0", "dict", "a string"]),
    "another table than Parti's": ("a.tsv", "parti", None, "text\na\n", ["a.tsv, line 1", "'Prompt'", "'text'"]),
    "COCO without annotations": ("a.json", "coco", None, '{"images": []}', ["a.json", "the list 'annotations'"]),
    "COCO's boxes": (
        "instances.json",
        "coco",
        None,
        '{"annotations": [{"image_id": 1, "id": 1, "bbox": []}]}',
        ["instances.json, annotation 0", "'caption'", "captions_val2017.json"],
    ),
    "pickle of a dictionary": (
        "a.pkl",
        "pickle_list",
        None,
        pickle.dumps({"a": 1}),
        ["a.pkl", "dict", "a pickled list"],
    ),
    "pickle of numbers": ("a.pkl", "pickle_list", None, pickle.dumps(["a", 1]), ["a.pkl, item 1", "int", "a string"]),
    "pickle of a class": ("a.pkl", "pickle_list", None, pickle.dumps(OrderedDict()), ["collections.OrderedDict"]),
    "pickle cut off": ("a.pkl", "pickle_list", None, pickle.dumps(["a"])[:-1], ["a.pkl is not a pickled list"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_error_names_the_place_and_what_was_expected(tmp_path: Path, case: str) -> None:
    name, kind, column, content, expected = BROKEN[case]
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError) as caught:
        read(path.parent if kind == "hpsv2" else path, kind, column)
    for text in expected:
        assert text in str(caught.value)


@pytest.mark.parametrize(("kind", "column"), [("text", None), ("parquet", "caption"), ("hpsv2", None)])
def test_missing_source(tmp_path: Path, kind: PromptFormat, column: str | None) -> None:
    with pytest.raises(PromptError, match="does not exist"):
        read(tmp_path / "nothing", kind, column)


REFUSED: dict[str, tuple[Callable[[], object], list[str]]] = {
    "column missing": (lambda: source_params("jsonl"), ["'jsonl' needs the name"]),
    "column not needed": (lambda: source_params("text", "caption"), ["'caption'", "remove it"]),
    "unwatched file": (
        lambda: source_params(source="file://data/mine.txt"),
        ["under prompts/ or models/tiny/prompts/", "dvc.yaml watches it", "write file://prompts/mine.txt"],
    ),
    "way out": (lambda: source_params(source="file://prompts/../data/mine.txt"), ["must lie under prompts/"]),
    "absolute": (lambda: source_params(source="file:///prompts/mine.txt"), ["must lie under prompts/"]),
    "unwatched block list": (lambda: source_params(block_list="file://blocked.txt"), ["must lie under prompts/"]),
    "remote block list": (
        lambda: source_params(block_list="s3://bucket/blocked.txt"),
        ["a block list is a local file"],
    ),
    "threshold out of range": (lambda: source_params(near_duplicate_threshold=0.0), ["greater than 0"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_are_checked(case: str) -> None:
    make, expected = REFUSED[case]
    with pytest.raises(ValidationError) as caught:
        make()
    for text in expected:
        assert text in str(caught.value)


def test_each_format_asks_for_its_files() -> None:
    hub = f"hf://datasets/owner/name@{'0' * 40}/data"
    assert source_params("parquet", "text", source=hub).model_files[""] == ModelFiles(hub, ("*.parquet",))
    assert source_params("hpsv2", source=hub).model_files[""].patterns[0] == "anime.json"
    assert source_params("coco", source=hub).model_files[""].patterns == ("*",)
