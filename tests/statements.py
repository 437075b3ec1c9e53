"""Every single change of a statement: each value another, each entry left out; for tests of what notices it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

_HEX = re.compile("[0-9a-f]{8,64}([.]dir)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT.*")


class Change(NamedTuple):
    """One change: the path of what was changed, `-` before the last part where it was left out."""

    path: str
    document: Any


def single_changes(document: Any) -> Iterator[Change]:
    """Yield the document with each of its values changed, and with each entry of a table or list left out."""
    for path in _paths(document):
        parent, last = _at(document, path[:-1]), path[-1]
        for left_out in (False, True):
            changed = copy.deepcopy(document)
            place = _at(changed, path[:-1])
            if left_out and parent[last] is None:
                continue  # it means the same
            if left_out:
                del place[last]
            elif isinstance(parent[last], dict | list):
                continue
            else:
                place[last] = _another(parent[last])
            name = ".".join(map(str, path[:-1]))
            yield Change(f"{name}.{'-' * left_out}{last}".lstrip("."), changed)


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, content in items:
            yield (*above, key)
            yield from _paths(content, (*above, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def _another(value: Any) -> Any:
    """Return another value of the same kind, as likely as the first."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1000
        case str():
            return _another_text(value)
        case _:
            return "x"


def _another_text(text: str) -> str:
    if _TIME.fullmatch(text):
        return (datetime.fromisoformat(text) + timedelta(days=1)).isoformat(timespec="milliseconds")
    if _HEX.fullmatch(text):
        return ("1" if text[0] == "0" else "0") + text[1:]
    return f"{text}x"
