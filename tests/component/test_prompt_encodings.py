"""Prompt files as they come: encodings, archives, line ends, hostile values; read, or refused with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from distar.errors import PromptError
from distar.prompts import HPSV2_STYLES
from distar.prompts.block_list import find_blocked, read_block_list
from distar.prompts.formats import MAX_LENGTH
from distar.prompts.params import PromptFormat
from distar.prompts.sets import filtered_set
from tests.component.test_prompt_formats import read, source_params, write

PROMPTS = ["a red star on white", "a teal moon, on sand", "ein größerer Stern", "青い月"]
TEXT = "\n".join(PROMPTS) + "\n"
ENCODED = {
    "utf-8 with mark": TEXT.encode("utf-8-sig"),
    "utf-16 little with mark": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "utf-16 big with mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "utf-16 little": TEXT.encode("utf-16-le"),
    "utf-16 big": TEXT.encode("utf-16-be"),
    "utf-32 with mark": TEXT.encode("utf-32"),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip of utf-16": gzip.compress(TEXT.encode("utf-16")),
    "CR": TEXT.replace("\n", "\r").encode(),
    "CRLF": TEXT.replace("\n", "\r\n").encode(),
    "gzip padded": gzip.compress(TEXT.encode()) + bytes(512),
    "joined with marks": "\n".join(f"\ufeff{prompt}" for prompt in PROMPTS).encode(),
    "joined utf-16": b"".join(f"{prompt}\n".encode("utf-16") for prompt in PROMPTS),
    "mixed": (PROMPTS[0] + "\r" + PROMPTS[1] + "\r\n" + PROMPTS[2] + "\n" + PROMPTS[3]).encode(),
}


@pytest.mark.parametrize("case", ENCODED)
def test_text_in_any_unicode_encoding_is_read(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "prompts.txt", ENCODED[case])
    assert [entry.prompt for entry in read(path, "text")] == PROMPTS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_short_utf_16_is_known_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "prompts.txt", "cat\n".encode(encoding))
    assert [entry.prompt for entry in read(path, "text")] == ["cat"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_and_json_lines_are_read_as_text_is(tmp_path: Path, encoding: str, packed: bool, end: str) -> None:
    def written(name: str, text: str) -> Path:
        content = text.replace("\n", end).encode(encoding)
        return write(tmp_path / (name + ".gz" * packed), gzip.compress(content) if packed else content)

    rows = "".join(f'{i},"{prompt}"\n' for i, prompt in enumerate(PROMPTS))
    table = written("a.csv", "id,caption\n" + rows)
    assert [entry.prompt for entry in read(table, "csv", "caption")] == PROMPTS
    lines = written("a.jsonl", "".join(json.dumps({"t": prompt}) + "\n" for prompt in PROMPTS))
    assert [entry.prompt for entry in read(lines, "jsonl", "t")] == PROMPTS
    one_list = written("a.json", json.dumps([{"t": prompt} for prompt in PROMPTS], indent=1))
    assert [entry.prompt for entry in read(one_list, "jsonl", "t")] == PROMPTS


def arrow(array: pa.Array, new: Callable[..., Any] = pa.ipc.new_file) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"t": array})
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def arrow_stream(array: pa.Array) -> bytes:
    return arrow(array, pa.ipc.new_stream)


def parquet(array: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"t": array}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("form", [arrow, arrow_stream, parquet])
@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
    ],
    ids=str,
)
def test_every_kind_of_string_column_is_read(tmp_path: Path, form, kind: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", form(pa.array([*PROMPTS, None]).cast(kind)))
    assert [entry.prompt for entry in read(path, "parquet", "t")] == [*PROMPTS, ""]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", parquet(pa.array([b"a", b"\xe9"])))
    with pytest.raises(PromptError, match=r"row 1: 't': got bytes that are no UTF-8.*choose another column"):
        read(path, "parquet", "t")


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n".encode()


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "parquet", "parti", "coco", "pickle_list"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_pointer_is_no_content(tmp_path: Path, kind: PromptFormat, end: bytes) -> None:
    path = write(tmp_path / "a.csv", POINTER.replace(b"\n", end))
    with pytest.raises(PromptError, match=r"run `git lfs pull`$"):
        read(path, kind, "t" if kind in ("jsonl", "csv", "parquet") else None)


def packed_as(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("prompts.txt", TEXT)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("prompts.txt"))
    return buffer.getvalue()


REFUSED = {
    "latin 1": ("größer\n" * 9).encode("latin1"),
    "zip": packed_as("zip"),
    "tar": packed_as("tar"),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "gzip cut off": gzip.compress(TEXT.encode() * 9)[:-9],
    "gzip of garbage": b"\x1f\x8b" + bytes(range(200)),
    "parquet": parquet(pa.array(PROMPTS)),
    "arrow": arrow(pa.array(PROMPTS)),
    "pickle": pickle.dumps(PROMPTS),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "binary": b"\x7fELF" + bytes(4096),
    "one line": b"a red star " * 100_000,
    "a JSON list": json.dumps(PROMPTS).encode(),
    "JSON lines": (json.dumps({"t": "a"}) + "\n" + json.dumps({"t": "b"})).encode(),
    "odd utf-16": TEXT.encode("utf-16")[:-1],
    "odd utf-16 without mark": "a red star".encode("utf-16-le")[:-1],
    "cp1252": "a \u201cred\u201d star, größer\n".encode("cp1252"),
    "shift_jis": "青い月の下の猫\n赤い星\n".encode("shift_jis"),
    "utf-16 of Chinese": "月亮下的猫，雪山，红色的星星".encode("utf-16-le"),
    "no encoding": bytes(range(256)) * 3,
    "conflict": b"a star\n<<<<<<< HEAD\na moon\n=======\na ring\n>>>>>>> other\n",
    "conflict with CRLF": b"a star\r\n<<<<<<< HEAD\r\na moon\r\n=======\r\na ring\r\n>>>>>>> other\r\n",
    "page": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><h1>404</h1></html>",
    "page without type": b"<html lang=en>\n404",
    "commas": b'id,Prompt\n1,a star\n2,"a moon, red"\n',
    "tabs": b"id\ttext\n1\ta star\n2\ta moon\n",
    "Parti": b"Prompt\tCategory\tChallenge\tNote\na star\tArts\tBasic\t\n",
    "a JSON object": json.dumps({"prompts": PROMPTS}, indent=1).encode(),
    "JSON strings": "".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS).encode(),
    "RTF": rb"{\rtf1\ansi a star\par}",
    "GIF": b"GIF89a\x01\0\x01\0\x80\0\0",
    "WebP": b"RIFF\xf0\0\0\0WEBPVP8 ",
    "7z": b"7z\xbc\xaf\x27\x1c\0\4" + bytes(20),
    "lz4": b"\x04\x22\x4d\x18" + bytes(20),
    "zlib": zlib.compress(TEXT.encode()),
    "npy": b"\x93NUMPY\1\0v\0{'descr'",
    "OLE": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(20),
    "double gzip": gzip.compress(gzip.compress(TEXT.encode())),
    "gzip and more": gzip.compress(TEXT.encode()) + b"more",
    "arrow stream": arrow_stream(pa.array(PROMPTS)),
}
ADVICE = {
    "latin 1": "iconv -f ENCODING .*that would fit: latin1, cp1252",
    "zip": "unpack it",
    "tar": "unpack it",
    "zstd": "unzstd",
    "bzip2": "bunzip2",
    "xz": "unxz",
    "gzip cut off": "fetch it again",
    "gzip of garbage": "fetch it again",
    "parquet": "set `format: parquet`",
    "arrow": "set `format: parquet`",
    "pickle": "format: pickle_list",
    "picture": "name a file of prompts",
    "binary": "holds no text",
    "one line": "check `format`",
    "a JSON list": "jq -r .",
    "JSON lines": "set `format: jsonl`",
    "odd utf-16": "is not UTF-16.*cut off",
    "odd utf-16 without mark": "is not UTF-16-LE.*cut off",
    "cp1252": "that would fit: cp1252",
    "shift_jis": "that would fit: .*shift_jis",
    "utf-16 of Chinese": "that would fit: .*utf-16-le",
    "no encoding": "it may be no text",
    "conflict": "resolve it",
    "conflict with CRLF": "resolve it",
    "page": "is a web page",
    "page without type": "is a web page",
    "commas": "end in .csv, and set `format: csv` and `column: Prompt`",
    "tabs": "end in .tsv, and set `format: csv` and `column: text`",
    "Parti": "set `format: parti`",
    "a JSON object": "set `format: jsonl`",
    "JSON strings": "jq -r .",
    "RTF": "save it as plain text",
    "GIF": "a picture",
    "WebP": "a picture",
    "7z": "7z x",
    "lz4": "unlz4",
    "zlib": "compressed with zlib",
    "npy": "an array of NumPy",
    "OLE": "save it as plain text",
    "double gzip": "unpack it once with `gunzip`",
    "gzip and more": "has other bytes behind",
    "arrow stream": "set `format: parquet`",
}


@pytest.mark.parametrize("case", ADVICE)
def test_what_is_no_prompt_a_line_is_refused_with_advice(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "prompts.txt", REFUSED[case])
    with pytest.raises(PromptError, match=ADVICE[case]) as caught:
        read(path, "text")
    assert len(str(caught.value)) < 600


HONEST = {
    "weights": ["a cat <lora:x:1>", "{a|b} cat, [red:blue:0.5]", "((masterpiece)), 1girl"],
    "quoted": ['"Stop"'],
    "quoted and more": ['"Stop"', 'a sign that says "go"'],
    "one word": ["prompt", "a star"],
    "commas": ["text, caption, label", "a star", "a moon, red"],
    "marks": ["=======", "a star", ">>>>>>> a moon"],
    "tag": ["a page that begins with <html>", "<html> written on a blackboard"],
    "names of formats": ["GIF89a, an old picture", "a star"],
    "RIFF": ["RIFF of a guitar", "BZh"],
    "x and Arabic": ["x\u069a", "a star"],
    "pointer": ["version https://git-lfs.github.com/spec/v1", "a star"],
    "braces": ["{", "a star", "}"],
}


@pytest.mark.parametrize("case", HONEST)
def test_honest_prompts_are_read(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "prompts.txt", "\n".join(HONEST[case]))
    assert [entry.prompt for entry in read(path, "text")] == HONEST[case]


def test_hostile_json_is_read_or_refused(tmp_path: Path) -> None:
    other_fields = '"n": ' + "1" * 5000 + ', "big": 1e308, "huge": 1e999, "half": "\\ud83d"'
    rows = [f'{{"t": "a star", {other_fields}}}', '{"t": "b\\ud83d\\u0000c"}', '{"t": "\\ud83c\\udf1f"}']
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    assert filtered_set(path, source_params("jsonl", "t"), None).prompts == ("a star", "bc", "\U0001f31f")
    deep = "[" * 100_000
    cases: list[tuple[PromptFormat, str | None, str]] = [
        ("jsonl", "t", f'{{"t": "a", "x": {deep}'),
        ("jsonl", "t", deep),
        ("coco", None, deep),
    ]
    for kind, column, content in cases:
        with pytest.raises(PromptError, match="nested too deep"):
            read(write(tmp_path / "deep.json", content), kind, column)


def test_invisible_differences_are_no_difference(tmp_path: Path) -> None:
    lines = ["a red star", "a red star\u200b", "ａ ｒｅｄ ｓｔａｒ", "\u2060", "\u200b\u200e", "A r\u00aded star"]
    path = write(tmp_path / "a.txt", "\n".join(lines))
    found = filtered_set(path, source_params(), None)
    assert found.prompts == ("a red star",)
    assert [drop.reason for drop in found.dropped] == ["empty"] * 2 + ["duplicate"] * 3
    evaluation = filtered_set(write(tmp_path / "b.txt", "Ａ\u200b red star\n"), source_params(), None)
    with pytest.raises(PromptError, match="1 prompts stand in both"):
        found.check_disjoint(evaluation)


def test_blank_files_hold_no_prompt(tmp_path: Path) -> None:
    for content in (b"", b"\n\n \t\r\n", "\u200b\n\u2060\n\u3000\n".encode(), b"\xff\xfe", gzip.compress(b"")):
        with pytest.raises(PromptError, match="holds no prompt"):
            filtered_set(write(tmp_path / "a.txt", content), source_params(), None)


def test_block_lists_see_through_disguise(tmp_path: Path) -> None:
    entries = read_block_list(write(tmp_path / "blocked.txt", "sword\n/(?i)kn[i1]fe/\n".encode("utf-16")))
    prompts = ["a s\u200bword", "a ｓｗｏｒｄ", "a swordfish", "a Kn\u00adife"]
    assert find_blocked(entries, prompts) == {0: ["sword"], 1: ["sword"], 3: ["/(?i)kn[i1]fe/"]}


def test_gzip_bomb_and_pickle_bomb_are_refused_soon(tmp_path: Path) -> None:
    begun = time.monotonic()
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as file:
        for _ in range(520):
            file.write(bytes(2**20))
    path = write(tmp_path / "a.txt", bomb.getvalue())
    made = time.monotonic() - begun
    with pytest.raises(PromptError, match="over 536870912 bytes"):
        read(path, "text")
    far = b"\x80\x04\x8c\x01ar\xff\xff\xff\x7f."  # remembers "a" at place 2147483647
    with pytest.raises(PromptError, match="remembers a value at the place"):
        read(write(tmp_path / "a.pkl", far), "pickle_list")
    assert time.monotonic() - begun - made < 20


SEEDS: dict[PromptFormat, bytes] = {
    "text": TEXT.encode(),
    "jsonl": "".join(json.dumps({"t": prompt, "n": 1.5, "x": [None]}) + "\n" for prompt in PROMPTS).encode(),
    "csv": ("n,t\n" + "".join(f'1,"{prompt}"\n' for prompt in PROMPTS)).encode(),
    "parti": ("Prompt\tCategory\n" + "".join(f"{prompt}\tArts\n" for prompt in PROMPTS)).encode(),
    "coco": json.dumps({"annotations": [{"image_id": 1, "id": 1, "caption": PROMPTS[0]}] * 3}).encode(),
    "hpsv2": json.dumps(PROMPTS).encode(),
    "pickle_list": pickle.dumps(PROMPTS),
    "parquet": parquet(pa.array(PROMPTS)),
}
NAMES = {"csv": "a.csv", "parquet": "a.parquet"}
FRAGMENTS = [
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b'"', b"\\ud800", b"1e999", b"9" * 5000, b"[" * 3000, b"{}"),
    *(b"\x1f\x8b", b"\xe2\x80\x8b", b"null", b"PAR1", b"\t,;", b"\x80\x04", b"-1", b"\x28\xb5\x2f\xfd", b"NaN"),
]


@st.composite
def mutated(draw: st.DrawFn, document: bytes) -> bytes:
    """Overwrite, insert, cut out, repeat and cut off pieces of a document."""
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(document)))
        end = draw(st.integers(start, min(len(document), start + 40)))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from(FRAGMENTS), st.just(document[start:end] * 3)))
        document = document[:start] + piece + document[end:]
        if draw(st.integers(0, 9)) == 0:
            document = document[:end]
    return document


def fuzz(kind: PromptFormat, folder: Path, max_examples: int) -> None:
    column = "t" if kind in ("jsonl", "csv", "parquet") else None

    @seed(20)
    @settings(
        max_examples=max_examples,
        deadline=5000,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=False,
    )
    @given(mutated(SEEDS[kind]))
    def reads_or_refuses(document: bytes) -> None:
        if kind == "hpsv2":
            for style in HPSV2_STYLES:
                write(folder / f"{style}.json", document if style == "anime" else SEEDS[kind])
            path = folder
        else:
            path = write(folder / NAMES.get(kind, "a.txt"), document)
        try:
            entries = filtered_set(path, source_params(kind, column), None).entries
        except PromptError as error:
            str(error).encode()
            return
        for entry in entries:
            assert entry.prompt.encode()
            assert len(entry.prompt) <= MAX_LENGTH

    reads_or_refuses()


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_are_read_or_refused(kind: PromptFormat, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_many_mutated_files_are_read_or_refused(kind: PromptFormat, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 10_000)
