"""Reading of documents that others may have written: JSON and YAML, within limits of size, depth and kind.

A document is untrusted wherever it comes from: a store, an attestation, a clone, a command line. Whatever it holds, the
reader returns plain values (text, numbers, truth values, null, lists, and tables with text as keys) or raises the error
that it was given. So what follows may recurse, print and encode without guarding itself.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from distar.errors import DistarError

MAX_BYTES = 8 * 1024 * 1024
MAX_YAML_BYTES = 256 * 1024
MAX_VALUES = 200_000
MAX_DEPTH = 64
_MAX_DIGITS = 30
_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")
_TIME = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)


def _with_zone(text: str) -> str:
    """Check a time as `isoformat` writes it, in this millennium: an hour before or after it is a time, too."""
    if not _TIME.fullmatch(text):
        raise ValueError("expected a time with its zone, such as 2026-01-31T12:00:00+00:00")
    datetime.fromisoformat(text)
    return text


# Fields of documents, as annotations of typed dictionaries.
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, strict=True)]
Timestamp = Annotated[str, AfterValidator(_with_zone)]


class _LimitError(ValueError):
    """A document breaks one of the limits."""


def content_of(path: Path, error: type[DistarError], if_missing: str) -> bytes:
    """Read a document's file, no further than a document may go.

    Args:
        path: the file.
        error: what is raised.
        if_missing: what to do if there is no such file.

    Raises:
        DistarError: `error`: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(f"{path} does not exist; {if_missing}") from None
    except (OSError, ValueError) as problem:  # a folder, no permission; a name that holds NUL or is too long
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{str(path)[:500]} cannot be read: {reason}") from None


def read_json(content: bytes, shown_as: str, error: type[DistarError]) -> Any:
    """Read a JSON document.

    Args:
        content: UTF-8, at most 8 MiB and 200,000 values, nested at most 64 deep.
        shown_as: the document's name in messages.
        error: what is raised.

    Raises:
        DistarError: `error`: it is not such a document; or a key stands twice, a number is not finite or has more than
            30 digits, or a text holds NUL or half a surrogate pair.
    """
    try:
        text = _text(content, MAX_BYTES)
        value = json.loads(
            text,
            object_pairs_hook=_table,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
        _check(value)
    except (ValueError, RecursionError) as problem:
        raise error(f"{shown_as} is not a JSON document that can be read: {_reason(problem, content)}") from None
    return value


def read_yaml(content: bytes, shown_as: str, error: type[DistarError]) -> Any:
    """Read a YAML document (1.2, so that 1e-5 is a number).

    Args:
        content: UTF-8, at most 256 KiB, nested at most 64 deep; at most 200,000 values once its aliases are written
            out.
        shown_as: the document's name in messages.
        error: what is raised.

    Raises:
        DistarError: `error`: it is not such a document; or a key stands twice or is not text, a value is neither text,
            number, truth value nor null (a date, say), or a text holds NUL or half a surrogate pair.
    """
    try:
        text = _text(content, MAX_YAML_BYTES)
        _check_size(YAML(typ="safe").parse(text))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # the nearer one counts, as YAML has it
            value = YAML(typ="safe").load(text)
        _check(value)
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as problem:
        raise error(f"{shown_as} is not a YAML document that can be read: {_reason(problem, content)}") from None
    return value


def validated(form: Any, value: Any, shown_as: str, error: type[DistarError]) -> Any:
    """Return a document that has a form; entries that the form does not name are left out.

    Args:
        form: a typed dictionary, or any other annotation that pydantic understands.
        value: the document.
        shown_as: its name in messages.
        error: what is raised.

    Raises:
        DistarError: `error`, with the first fields that are missing or of another type.
    """
    try:
        return TypeAdapter(form).validate_python(value)
    except ValidationError as problem:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problem.errors()[:3]]
        told = "; ".join(faults)
        raise error(f"{shown_as} does not have the form that is expected: {told}") from None


def _text(content: bytes, limit: int) -> str:
    if len(content) > limit:
        raise _LimitError(f"it has {len(content)} bytes; expected at most {limit}")
    return content.decode()


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _LimitError(f"the key {counts.most_common(1)[0][0]!r} stands twice in a table")
    return table


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _LimitError(f"a number has {len(digits)} digits; expected at most {_MAX_DIGITS}")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _LimitError(f"the number {digits[:_MAX_DIGITS]} is not finite")
    return number


def _check(value: Any) -> None:
    """Check every value of a tree, without recursion."""
    waiting, count = [(value, 1)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise _LimitError(f"it has more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise _LimitError(f"it is nested more than {MAX_DEPTH} deep")
        match one:
            case dict():
                for key, content in one.items():
                    if not isinstance(key, str):
                        raise _LimitError(f"got the key {str(key)[:40]!r}, expected text; put it in quotes")
                    waiting += [(key, depth), (content, depth + 1)]
            case list():
                waiting += [(content, depth + 1) for content in one]
            case _:
                _check_scalar(one)


def _check_scalar(value: Any) -> None:
    match value:
        case str():
            if _UNPRINTABLE.search(value):
                raise _LimitError(f"a text holds NUL or half a surrogate pair: {value[:40]!r}")
        case bool() | None:
            pass
        case int():
            if abs(value) >= 10**_MAX_DIGITS:
                raise _LimitError(f"a number has more than {_MAX_DIGITS} digits")
        case float():
            if not math.isfinite(value):
                raise _LimitError(f"the number {value} is not finite")
        case _:
            raise _LimitError(f"got a value of the type {type(value).__name__}; if text is meant, put it in quotes")


def _check_size(events: Iterable[Any]) -> None:
    """Count a YAML document's values with its aliases written out, before anything is built of them."""
    sizes: dict[str, int] = {}
    enclosing: list[tuple[str | None, int]] = []  # of each collection around: its anchor, and the values before it
    count = 0
    for event in events:
        match event:
            case AliasEvent():
                if event.anchor not in sizes:
                    raise _LimitError(f"the alias *{event.anchor} stands before its anchor or within it")
                count += sizes[event.anchor]
            case ScalarEvent():
                count += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            case CollectionStartEvent():
                enclosing.append((event.anchor, count))
                count += 1
            case CollectionEndEvent():
                anchor, before = enclosing.pop()
                if anchor is not None:
                    sizes[anchor] = count - before
            case _:
                pass
        if len(enclosing) > MAX_DEPTH:
            raise _LimitError(f"it is nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise _LimitError(f"it has more than {MAX_VALUES} values once its aliases are written out")


def _reason(problem: Exception, content: bytes) -> str:
    if _CONFLICT.search(content):
        return "it holds the markers of a merge conflict (<<<<<<<); resolve the conflict and try again"
    match problem:
        case RecursionError():
            return f"it is nested more than {MAX_DEPTH} deep"
        case UnicodeDecodeError():
            return f"it is not UTF-8 ({problem.reason} at byte {problem.start})"
        case _:
            return str(problem)[:500] or type(problem).__name__
