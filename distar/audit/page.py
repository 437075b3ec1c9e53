"""What a command found, described once: printed for a terminal, or written as one self-contained HTML file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from distar.atomic import written_whole
from distar.audit.graph import Kind, Node, draw
from distar.errors import ParameterError, ReleaseError, StorageError
from distar.pictures import read_png
from distar.text import MOST_ROWS, more_told, plain

Status = Literal["good", "bad", "neutral"]

_MARKS: dict[Status, tuple[str, str]] = {"good": ("✓", "green"), "bad": ("✗", "bold red"), "neutral": ("·", "dim")}
_HASH = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{40})\b")
_SHORT_HASH = 16
_MOST_SIGNS = 4000  # of a text in a terminal


@dataclass(frozen=True)
class Facts:
    """Labels with one value each."""

    title: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """A table; `statuses`, if there are any, holds one for each row, which is marked with it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    statuses: Sequence[Status] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG file's bytes, and what they show."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Graph:
    """A lineage, drawn by `distar.audit.graph`; edges are pairs (from key, to key)."""

    title: str
    nodes: Sequence[Node]
    edges: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """A text in lines, such as all parameters; folded until asked for."""

    title: str
    text: str


@dataclass(frozen=True)
class Note:
    """A remark."""

    text: str


Section = Facts | Rows | Pictures | Graph | Code | Note


@dataclass(frozen=True)
class Page:
    """A title, what was found in a sentence or two, and the sections that show it."""

    title: str
    lead: str
    sections: Sequence[Section]


def write_html(page: Page, path: Path) -> None:
    """Write the page as one HTML file that loads nothing from elsewhere; the same bytes for the same page.

    Raises:
        ParameterError: `path` is a folder.
        StorageError: it cannot be written.
        ReleaseError: a graph runs in a circle.
    """
    if path.is_dir():
        raise ParameterError(f"--html: got the folder {path}; name the file to write, such as {path / 'index.html'}")
    environment = Environment(
        loader=PackageLoader("distar.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hashes": _hashes_marked, "data_uri": _data_uri}
    html = environment.get_template("page.html.jinja").render(page=page, draw=draw, kinds=get_args(Kind), marks=_MARKS)
    try:
        with written_whole(path) as partial:
            partial.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error}); choose another file") from error


def print_page(page: Page, console: Console | None = None) -> None:
    """Print the page; where a table is too wide for the terminal, its hashes are shortened to 16 digits.

    Images and folded texts are only mentioned. Long tables and texts are truncated.
    """
    console = console or Console()
    console.print(plain(page.title, "bold"))
    console.print(plain(page.lead))
    for section in page.sections:
        console.print()
        if not isinstance(section, Note):
            console.print(plain(section.title, "bold"))
        console.print(_printed(section, console))
        for line in more_told(len(section.rows)) if isinstance(section, Rows) else ():
            console.print(line)


def _printed(section: Section, console: Console) -> RenderableType:
    match section:
        case Facts(facts=facts):
            cut = {label: _cut(value) for label, value in facts.items()}
            return _fitting(console, lambda cell: _facts_table(cut, cell))
        case Rows():
            rows = _shown_rows(section)
            return _fitting(console, lambda cell: _rows_table(rows, cell))
        case Pictures(pictures=pictures):
            return plain("\n".join(f"{picture.caption}: {_size(picture.png)}" for picture in pictures))
        case Graph(nodes=nodes, edges=edges):
            titles = {node.key: node.title for node in nodes}
            rows = [
                (
                    node.kind,
                    node.title,
                    node.detail,
                    ", ".join(titles[start] for start, end in edges if end == node.key),
                )
                for node in nodes
            ]
            table = Rows(section.title, ("kind", "name", "", "made from"), rows)
            return _fitting(console, lambda cell: _rows_table(table, cell))
        case Code(text=text):
            return plain(f"{len(text.splitlines())} lines, which the HTML page shows")
        case Note(text=text):
            return plain(_cut(text), "dim")


def _shown_rows(section: Rows) -> Rows:
    """Return as many rows as a terminal shows, those that are bad before others, in their order."""
    places = range(len(section.rows))
    if section.statuses:
        places = sorted(places, key=lambda place: section.statuses[place] != "bad")
    shown = sorted(places[:MOST_ROWS])
    rows = [[_cut(cell) for cell in section.rows[place]] for place in shown]
    return replace(section, rows=rows, statuses=[section.statuses[place] for place in shown if section.statuses])


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SIGNS else f"{text[:_MOST_SIGNS]}…"


def _fitting(console: Console, table: Callable[[Callable[[str], Text]], Table]) -> Table:
    whole = table(plain)
    if console.measure(whole, options=console.options.update(max_width=10_000)).maximum <= console.width:
        return whole
    return table(lambda cell: plain(_HASH.sub(lambda found: found[0][:_SHORT_HASH], cell)))


def _facts_table(facts: Mapping[str, str], cell: Callable[[str], Text]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in facts.items():
        table.add_row(plain(label), cell(value))
    return table


def _rows_table(section: Rows, cell: Callable[[str], Text]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    if section.statuses:
        table.add_column("")
    for column in section.columns:
        table.add_column(plain(column), overflow="fold")
    marks = [[plain(*_MARKS[status])] for status in section.statuses] or [[]] * len(section.rows)
    for mark, row in zip(marks, section.rows, strict=True):
        table.add_row(*mark, *map(cell, row))
    return table


def _size(png: bytes) -> str:
    try:
        image = read_png(png, "the picture", ReleaseError)
    except ReleaseError as error:
        return f"not shown: {error}"
    return f"a picture of {image.width}×{image.height} pixels, which the HTML page shows"


def _hashes_marked(text: str) -> Markup:
    code, place = Markup("<code>{}</code>"), 0
    marked = Markup("")
    for found in _HASH.finditer(text):
        marked += text[place : found.start()] + code.format(found[0])
        place = found.end()
    return marked + text[place:]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
