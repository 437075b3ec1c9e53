"""Damaged and hostile variants of real documents, JSON and YAML, for tests that fuzz readers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from ruamel.yaml import YAML

Path = tuple[str | int, ...]

DEEP = 20_000
_DIGITS = 5000

# What stands for a value: text of the document, not a value, so that no writer mends it.
VALUES = (
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e308",
    "-1e308",
    "1e309",
    "-1e999",
    "NaN",
    "Infinity",
    "-0.0",
    "5e-324",
    "9" * 31,
    "9" * _DIGITS,
    "0." + "3" * _DIGITS,
    "18446744073709551616",
    '""',
    '" "',
    '"1"',
    '"true"',
    '"null"',
    '"nan"',
    r'"\u0000"',
    '"\0"',
    r'"\ud800"',
    r'"a\udfffb"',
    r'"\ud83d\ude00"',
    r'"\u202e\u200b\ufeff"',
    '"\x1b[31m"',
    '"[/red]"',
    '"[bold"',
    '"{0} %s ${profile}"',
    '"<script>alert(1)</script>"',
    '"a\\nb"',
    '"../../../etc/passwd"',
    '"/dev/zero"',
    '"/proc/self/mem"',
    '"."',
    '"file://"',
    '"file:///"',
    '"s3://"',
    '"http://[::1"',
    '"http://host:99999999/"',
    '"9999-99-99T99:99:99Z"',
    '"' + "a" * 64 + '"',
    '"' + "x" * 100_000 + '"',
    "[]",
    "{}",
    "[null]",
    "[[]]",
    "[{}, 1]",
    "[1, 2, 3]",
    '["a", "b"]',
    '{"a": 1}',
    '{"": null}',
    '{"a": 1, "a": 2}',
    r'{"\u0000": 1}',
    r'{"\ud800": 1}',
    "[" * 70 + "]" * 70,
    "[" * DEEP + "]" * DEEP,
    "[" * DEEP,
    '{"a": ' * DEEP + "1" + "}" * DEEP,
    "[" + "0," * 250_000 + "0]",
    "",
    "}",
    "]",
    ",",
    ":",
    '"',
)

# The same for YAML alone, fit to stand within a flow collection too.
YAML_VALUES = (
    "&a [*a]",
    "&a {a: *a}",
    "*nowhere",
    "&a",
    "&a &b 1",
    "{<<: *nowhere}",
    "{<<: 1}",
    "{<<: [1, 2]}",
    "{a: &a {b: 1}, c: {<<: *a, b: 2}}",
    "{<<: {profile: tiny}, <<: {seed: 1}}",
    "{a: &a {<<: *a}}",
    "{a: &l0 [x,x,x,x,x,x,x,x,x]"
    + "".join(f", b{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))
    + "}",
    "{a: &k0 {k: x}" + "".join(f", b{n}: &k{n} {{<<: [{','.join([f'*k{n - 1}'] * 9)}]}}" for n in range(1, 9)) + "}",
    "!!python/object/apply:os.system [exit]",
    "!!python/name:os.system",
    "!!binary aGVsbG8=",
    "!!binary ???",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!omap 1",
    "!!pairs [a: 1]",
    "!!timestamp 2001-12-14",
    "!!timestamp x",
    "!!int x",
    "!!int 0b12",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!null x",
    "!!str [a]",
    "!!map [a]",
    "!!seq {a: 1}",
    "!!merge x",
    "!unknown x",
    "!<tag:example.org,2026:x> x",
    "!",
    "2001-12-14",
    "2001-99-99",
    "12:30:45",
    ".inf",
    "-.INF",
    ".nan",
    "1_000",
    "0o17",
    "0x1F",
    "0x",
    "yes",
    "~",
    "=",
    "<<",
    "- - - a",
    "? a",
    "? [a]: b",
    "{[a]: b}",
    "{{a: 1}: 2}",
    "{1: 2}",
    "{null: 1}",
    "{true: 1}",
    "{2001-12-14: 1}",
    r'"\x00"',
    r'"\uD800"',
    r'"\UFFFFFFFF"',
    r'"\z"',
    "'a",
    "@a",
    "`a",
    "%a",
    "|",
    ">",
    "|9",
    "a: b: c",
    "\t1",
    "# nothing",
)

KEYS = (
    '""',
    '" "',
    r'"\u0000"',
    r'"\ud800"',
    '"__class__"',
    '"a.b"',
    '"../x"',
    '"/x"',
    '"[/red]"',
    '"1"',
    '"' + "k" * 10_000 + '"',
)
YAML_KEYS = ("<<", "1", "null", "true", "[a]", "{a: 1}", "? a", "&a a", "*a", "!!binary aGk=", "2001-12-14", ".nan")

# What is put between two bytes.
BYTES = (
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b"\x1b[2J",
    b"\x85",
    b"\xe2\x80\xa8",
    b"{",
    b"[",
    b'"',
    b"\\",
    b",",
    b": ",
    b"\n<<<<<<< HEAD\n",
    b"\n=======\n",
    b"\n>>>>>>> theirs\n",
)
YAML_BYTES = (
    b"\n---\n",
    b"\n...\n",
    b"\n%YAML 9.9\n---\n",
    b"\n%TAG ! x\n---\n",
    b"&a ",
    b"*a ",
    b"!!binary ",
    b"\n- ",
    b"\n? ",
    b"\n  x: ",
    b"\n<<: *a\n",
    b"#",
    b"'",
    b"|\n",
)

_WHOLE = (b"", b" ", b"\n", b"null", b"0", b'""', b"[]", b"{}", b"x", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * DEEP)


@dataclass(frozen=True)
class Edit:
    """What happens to one value of a document.

    Attributes:
        kind: the value is replaced, removed, or stands twice under its key; or its key is replaced.
        text: what comes in place, as text of the document.
    """

    kind: Literal["replace", "remove", "twice", "rename"]
    text: str


def mutated(document: bytes, *, yaml: bool = False) -> SearchStrategy[bytes]:
    """Return a strategy for damaged variants of a sound document.

    Up to three values are exchanged for what another reader, or nobody, expects: other types, huge numbers, NUL, half
    surrogate pairs, deep nesting, keys that stand twice, paths, markup; in YAML anchors, aliases, tags and merge keys
    too. Then up to two places of the text are damaged: bytes flipped, put in, taken out, written twice, cut off; the
    markers of a merge conflict; another encoding.

    Args:
        document: a sound document, with at least one value in its table or list.
        yaml: it is YAML; JSON otherwise.
    """
    tree = YAML(typ="safe", pure=True).load(document.decode()) if yaml else json.loads(document)
    paths = list(_paths(tree))
    subtrees = [_get(tree, path) for path in paths]
    values = st.one_of(
        st.sampled_from(VALUES + (YAML_VALUES if yaml else ())),
        st.integers(0, len(subtrees) - 1).map(lambda index: _text(subtrees[index])),
        st.text(max_size=20).map(json.dumps),
    )
    keys = st.sampled_from(KEYS + (YAML_KEYS if yaml else ()))
    edits = st.one_of(
        values.map(lambda text: Edit("replace", text)),
        st.just(Edit("remove", "")),
        values.map(lambda text: Edit("twice", text)),
        keys.map(lambda text: Edit("rename", text)),
    )
    splices = st.sampled_from(BYTES + (YAML_BYTES if yaml else ()))

    @st.composite
    def variant(draw: DrawFn) -> bytes:
        chosen = draw(st.dictionaries(st.sampled_from(paths), edits, max_size=3))
        content = _text(tree, chosen).encode("utf-8", "surrogatepass") if chosen else document
        for _ in range(draw(st.integers(0 if chosen else 1, 2))):
            content = draw(_damaged(content, splices))
        return content

    return st.one_of(variant(), variant(), variant(), st.sampled_from(_WHOLE))


@st.composite
def _damaged(draw: DrawFn, content: bytes, splices: SearchStrategy[bytes]) -> bytes:
    """Damage one place of a text."""
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.integers(1, 40)))
    before, piece, after = content[:start], content[start:end], content[end:]
    lines = content.splitlines(keepends=True)
    at = draw(st.integers(0, max(0, len(lines) - 1)))
    above, line, below = (b"".join(part) for part in (lines[:at], lines[at : at + 1], lines[at + 1 :]))
    as_text = content.decode("latin-1")
    return draw(
        st.one_of(
            st.integers(0, 7).map(
                lambda bit: before + bytes(byte ^ 1 << bit for byte in piece[:1]) + piece[1:] + after
            ),
            splices.map(lambda splice: before + splice + piece + after),
            st.sampled_from((2, 3, 1000)).map(lambda times: before + piece * times + after),
            st.sampled_from(
                (
                    before,
                    before + after,
                    above + line + line + below,
                    above + b"<<<<<<< HEAD\n" + line + b"=======\n" + line + b">>>>>>> theirs\n" + below,
                )
            ),
            st.sampled_from(
                (
                    b"\xef\xbb\xbf" + content,
                    as_text.encode("utf-16"),
                    as_text.encode("utf-32"),
                    content.replace(b"\n", b"\r\n"),
                    content.replace(b"\n", b"\r"),
                    base64.b64encode(content),
                )
            ),
        )
    )


def _paths(value: Any, path: Path = ()) -> list[Path]:
    """Return the path of every value of a tree but its own."""
    match value:
        case dict():
            parts = list(value.items())
        case list():
            parts = list(enumerate(value))
        case _:
            parts = []
    return [place for key, content in parts for place in ((*path, key), *_paths(content, (*path, key)))]


def _get(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _text(value: Any, edits: Mapping[Path, Edit] | None = None, path: Path = ()) -> str:
    """Write a tree as JSON, one entry a line, with some of its values edited."""
    match value:
        case dict():
            parts = [(key, json.dumps(key), content) for key, content in value.items()]
            return "{" + ",\n".join(_entries(parts, edits or {}, path)) + "}"
        case list():
            parts = [(index, "", content) for index, content in enumerate(value)]
            return "[" + ",\n".join(_entries(parts, edits or {}, path)) + "]"
        case _:
            return json.dumps(value)


def _entries(parts: Sequence[tuple[str | int, str, Any]], edits: Mapping[Path, Edit], path: Path) -> Iterator[str]:
    for part, key, content in parts:
        named = f"{key}: " if key else ""
        written = _text(content, edits, (*path, part))
        match edits.get((*path, part)):
            case Edit("replace", text):
                yield named + text
            case Edit("remove"):
                pass
            case Edit("twice", text):
                yield from (named + written, named + text)
            case Edit("rename", text):
                yield f"{text}: {written}" if key else written
            case _:
                yield named + written
