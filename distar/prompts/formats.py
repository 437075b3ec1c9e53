"""Read the formats in which prompt sets are published, as they stand: nothing is cleaned or dropped here."""

from __future__ import annotations

import csv
import io
import json
import pickle
import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from distar.errors import PromptError
from distar.prompts import HPSV2_STYLES
from distar.prompts.params import PromptSourceParams
from distar.prompts.text import check_is_no_pointer, read_lines, read_text

_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
_POINTER_BYTES = 4096
MAX_LENGTH = 20_000
"""Characters of the longest prompt: what is longer is no prompt, but a file read in the wrong format."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_PROMPT_COLUMNS = {"prompt", "prompts", "text", "caption", "captions"}
_COLUMNS = _PROMPT_COLUMNS | {
    *("id", "index", "label", "category", "style", "challenge", "note", "image", "image_id", "file_name", "filename"),
    *("url", "seed", "source", "negative_prompt", "title", "act", "model", "width", "height", "split"),
}


class Entry(NamedTuple):
    """A prompt, and the style or category under which its source files it."""

    prompt: str
    label: str | None = None


def read_entries(path: Path, params: PromptSourceParams) -> list[Entry]:
    """Read every prompt of a source, in its order; a null becomes the empty prompt.

    `path` is the file, or a folder that holds it alone; for `parquet` and `hpsv2` also a folder of files.

    Raises:
        PromptError: a file is missing or not in the format; the message names the place and the remedy.
    """
    match params.format, params.column:
        case "parquet", str(column):
            entries = _read_parquet(path, column)
        case "hpsv2", None:
            entries = _read_hpsv2(path)
        case "text", None:
            entries = _read_text(_single_file(path))
        case "jsonl", str(column):
            entries = _read_jsonl(_single_file(path), column)
        case "csv", str(column):
            entries = _read_csv(_single_file(path), column)
        case "parti", None:
            entries = _read_parti(_single_file(path))
        case "coco", None:
            entries = _read_coco(_single_file(path))
        case "pickle_list", None:
            entries = _read_pickle_list(_single_file(path))
        case _:
            raise AssertionError(f"{params} does not keep to its own validation")
    for number, entry in enumerate(entries, start=1):
        if len(entry.prompt) > MAX_LENGTH:
            raise PromptError(
                f"{path}: prompt {number} has {len(entry.prompt)} characters, expected at most {MAX_LENGTH}; it begins "
                f"with {entry.prompt[:40]!r}: check `format`, and the file's quotes and line ends"
            )
    return entries


def _single_file(path: Path) -> Path:
    if not path.exists():
        raise PromptError(f"the prompt file {path} does not exist; check `source` in the profile's prompts")
    if path.is_file():
        return path
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if len(files) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in files[:5]) or "nothing"
        raise PromptError(
            f"the folder {path} holds {len(files)} files ({names}), where this format expects one; "
            "name the file in `source`"
        )
    return files[0]


def _read_text(path: Path) -> list[Entry]:
    lines = read_lines(path)
    if problem := _json_in(lines) or _table_in(lines):
        raise PromptError(f"{path} holds {problem}; the format is 'text', a prompt a line")
    return [Entry(line) for line in lines]


def _json_in(lines: list[str]) -> str | None:
    """Tell of the JSON that lines hold: an object on the first, one value on all, or a string on each."""
    filled = [line.strip() for line in lines if line.strip()]
    first, last = (filled[0], filled[-1]) if filled else ("", "")
    if first.startswith("{") and first.endswith("}") and _is_object(_json_or_none(first)):
        return "JSON; set `format: jsonl` and `column`"
    if first.startswith("{") and last.endswith("}") and _is_object(_json_or_none("\n".join(lines))):
        return (
            "one object of JSON; set `format: coco` if it is a file of COCO's captions, or write an object a line, and "
            "set `format: jsonl` and `column`"
        )
    if first.startswith("[") and last.endswith("]"):
        items = _json_or_none("\n".join(lines))
        if isinstance(items, list) and items and isinstance(items[0], dict):
            return "JSON; set `format: jsonl` and `column`"
        if isinstance(items, list) and items and isinstance(items[0], str):
            return "a list of JSON; write its strings one a line, without quotes (`jq -r .[]`)"
    if len(filled) > 1 and all(line[0] == line[-1] == '"' and _is_string(line) for line in filled):
        return "strings of JSON; write them without quotes (`jq -r .`)"
    return None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _is_string(line: str) -> bool:
    return isinstance(_json_or_none(line), str)


def _table_in(lines: list[str]) -> str | None:
    """Tell of a table: its header has well-known names alone, and each line has as many fields."""
    for name, delimiter in _DELIMITERS.items():
        header = [field.strip(' "') for field in lines[0].split(delimiter)]
        names = {field.lower() for field in header}
        if len(header) < 2 or not names <= _COLUMNS or names.isdisjoint(_PROMPT_COLUMNS) or len(lines) < 2:
            continue
        quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
        rows = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=delimiter, quoting=quoting)
        try:
            if {len(row) for row in rows if row} != {len(header)}:
                continue
        except csv.Error:
            continue
        if {"Prompt", "Category"} <= set(header) and delimiter == "\t":
            return "the table of PartiPrompts; set `format: parti`"
        column = next(field for field in header if field.lower() in _PROMPT_COLUMNS)
        return f"a table; let its name end in {name}, and set `format: csv` and `column: {column}`"
    return None


def _json_or_none(text: str) -> Any:
    try:
        return _parsed_json(text, "")
    except PromptError:
        return None


def _read_jsonl(path: Path, column: str) -> list[Entry]:
    text = read_text(path)
    if text.lstrip().startswith("[") and isinstance(items := _parsed_json(text, f"{path}, line 1"), list):
        if items and not isinstance(items[0], dict):
            raise PromptError(
                f"{path}, line 1: got a list whose items are {_kind(items[0])}, expected an object with the field "
                f"{column!r} on each line, or a list of such objects; of strings, write one a line, as `format: text`"
            )
        return [_field(row, column, f"{path}, item {i}") for i, row in enumerate(items)]
    lines = enumerate(text.replace("\r", "\n").split("\n"), start=1)  # JSON has neither within a text
    places = ((line, f"{path}, line {number}") for number, line in lines if line.strip())
    return [_field(_parsed_json(line, place), column, place) for line, place in places]


def _field(row: Any, column: str, place: str) -> Entry:
    if not isinstance(row, dict):
        raise PromptError(f"{place}: got {_kind(row)}, expected an object with the field {column!r}")
    if column not in row:
        raise PromptError(_no_column(place, column, list(row)))
    return Entry(_text(row[column], f"{place}: {column!r}"))


def _read_csv(path: Path, column: str) -> list[Entry]:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _DELIMITERS:
        raise PromptError(
            f"{path}: the name must end in {' or '.join(_DELIMITERS)}, which tells the delimiter; rename it"
        )
    rows = _rows(path, csv.reader(_lines(path), delimiter=_DELIMITERS[suffix], strict=True), (column,))
    return [Entry(prompt) for (prompt,) in rows]


def _read_parti(path: Path) -> list[Entry]:
    unquoted = csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [Entry(prompt, category) for prompt, category in _rows(path, unquoted, ("Prompt", "Category"))]


def _lines(path: Path) -> io.StringIO:
    return io.StringIO(read_text(path), newline="")


def _rows(path: Path, reader: Any, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    try:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise PromptError(_no_column(f"{path}, line 1", column, header))
        places = [header.index(column) for column in columns]
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise PromptError(
                    f"{path}, line {reader.line_num}: got {len(row)} fields, expected {len(header)} as in the header; "
                    "quote fields that hold the delimiter"
                )
            if row:
                rows.append(tuple(row[place] for place in places))
    except csv.Error as error:
        raise PromptError(f"{path}, line {reader.line_num}: {error}; correct the quoting there") from error
    return rows


def _read_parquet(path: Path, column: str) -> list[Entry]:
    if not path.exists():
        raise PromptError(f"the prompt file {path} does not exist; check `source` in the profile's prompts")
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise PromptError(f"the folder {path} holds no *.parquet file; check `source` and `format`")
    return [entry for file in files for entry in _read_parquet_file(file, column)]


def _read_parquet_file(path: Path, column: str) -> list[Entry]:
    shown = "parquet file"
    try:
        with path.open("rb") as file:
            head = file.read(_POINTER_BYTES)
        check_is_no_pointer(path, head)
        if head.startswith(_ARROW_FILE):
            shown = "Arrow file"
            table = pa.ipc.open_file(path).read_all()
        elif head.startswith(_ARROW_STREAM):
            shown = "Arrow stream"
            with path.open("rb") as file:
                table = pa.ipc.open_stream(file).read_all()
        else:
            table = None
        schema = pq.read_schema(path) if table is None else table.schema
        if schema.names.count(column) != 1:
            raise PromptError(_no_column(str(path), column, schema.names))
        kind = schema.field(column).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_text(values) for is_text in (*_TEXTS, *_BYTES)):
            raise PromptError(f"{path}: the column {column!r} holds {kind}, expected strings; choose another column")
        table = pq.read_table(path, columns=[column]) if table is None else table
        return [
            _value(value, f"{path}, row {i}: {column!r}") for i, value in enumerate(table.column(column).to_pylist())
        ]
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
        reason = str(error)[:300] or type(error).__name__
        raise PromptError(f"{path} is not a readable {shown}: {reason}; fetch or write it again") from error


def _value(value: str | bytes | None, place: str) -> Entry:
    if not isinstance(value, bytes):
        return Entry(value or "")
    try:
        return Entry(value.decode())
    except UnicodeDecodeError:
        raise PromptError(f"{place}: got bytes that are no UTF-8, expected text; choose another column") from None


def _read_hpsv2(path: Path) -> list[Entry]:
    entries = []
    for style in HPSV2_STYLES:
        file = path / f"{style}.json"
        if not file.is_file():
            raise PromptError(
                f"{file} does not exist; the format 'hpsv2' is a folder of {', '.join(HPSV2_STYLES)}.json"
            )
        prompts = _parsed_json(read_text(file), str(file))
        if not isinstance(prompts, list):
            raise PromptError(f"{file}: got {_kind(prompts)}, expected a list of strings")
        entries += [Entry(_text(prompt, f"{file}, item {i}"), style) for i, prompt in enumerate(prompts)]
    return entries


def _read_coco(path: Path) -> list[Entry]:
    content = _parsed_json(read_text(path), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise PromptError(f"{path}: expected an object with the list 'annotations', as in captions_val2017.json")
    first: dict[int, tuple[int, str]] = {}
    for i, annotation in enumerate(content["annotations"]):
        match annotation:
            case {"image_id": int(image), "id": int(number), "caption": str(caption)}:
                if image not in first or number < first[image][0]:
                    first[image] = (number, caption)
            case _:
                raise PromptError(
                    f"{path}, annotation {i}: expected the integers 'image_id' and 'id' and the string 'caption', as "
                    "in captions_val2017.json; instances_*.json and person_keypoints_*.json hold no captions"
                )
    return [Entry(caption) for _, (_, caption) in sorted(first.items())]


class _ListsOfStrings(pickle.Unpickler):
    """Unpickles what needs no class, so runs no code of the file's."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a list of strings has no need of")


def _check_places(content: bytes) -> None:
    """Refuse a pickle that remembers a value at a place far beyond its values: all places before are made."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and not 0 <= int(argument or 0) <= len(content):
            raise pickle.UnpicklingError(f"it remembers a value at the place {argument}")


def _read_pickle_list(path: Path) -> list[Entry]:
    try:
        content = path.read_bytes()
        check_is_no_pointer(path, content)
        _check_places(content)
        content = _ListsOfStrings(io.BytesIO(content)).load()
    except PromptError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise PromptError(f"{path} is not a pickled list of strings: {error}; do not trust this file") from error
    if not isinstance(content, list):
        raise PromptError(f"{path}: got {_kind(content)}, expected a pickled list of strings")
    return [Entry(_text(prompt, f"{path}, item {i}")) for i, prompt in enumerate(content)]


def _parsed_json(text: str, place: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise PromptError(f"{place} is not JSON: {error}; correct it, or check `format`") from error
    except RecursionError:
        raise PromptError(f"{place} is nested too deep to be read; remove that field") from None


def _integer(digits: str) -> int | float:
    """Read a number; one of very many digits, which only a field that is not read may be, as a float."""
    return int(digits) if len(digits) < 100 else float(digits)


def _text(value: Any, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PromptError(f"{place}: got {_kind(value)}, expected a string")
    return value


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def _no_column(place: str, column: str, found: list[str]) -> str:
    names = ", ".join(repr(name)[:80] for name in found[:20]) or "none"
    return f"{place}: there is no column {column!r}; it has {names}"
