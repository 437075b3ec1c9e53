"""The audit's pages: one description, printed and written, with its lineage drawn."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from distar.audit.graph import Node, draw
from distar.audit.page import Code, Facts, Graph, Note, Page, Picture, Pictures, Rows, Status, print_page, write_html
from distar.errors import ParameterError, ReleaseError, StorageError

HASH = "0123456789abcdef" * 4
OTHER = HASH[::-1]
STAGES = ("reference", "train", "evaluate")
NODES = [
    Node("code", "commit", "git 558d08c", "2 files changed", "5" * 40),
    Node("unet", "reference", "unet & <co>", HASH[:12], HASH),
    *[Node(stage, "stage", stage, "1.0 s", f"runs/{stage}") for stage in STAGES],
]
EDGES = [("unet", "reference"), ("reference", "train"), ("reference", "evaluate"), ("train", "evaluate")]
SVG = "{http://www.w3.org/2000/svg}"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, "PNG")
    return buffer.getvalue()


PAGE = Page(
    "Release <b>",
    "All is as it was.",
    [
        Facts("What it is", {"id": HASH, "store": "file://published"}),
        Rows(
            "Checks",
            ("file", "found", "expected"),
            [("unet/model.safetensors", HASH, OTHER), ("[red]\x1b[31m", "<script>alert(1)</script>", "")],
            ("bad", "good"),
        ),
        Graph("Lineage", NODES, EDGES),
        Pictures("Samples", [Picture("this release", png())]),
        Code("All parameters", "a: 1\nb: 2"),
        Note("That was all."),
    ],
)


def printed(page: Page, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    print_page(page, console)
    return console.export_text()


def html(page: Page, path: Path) -> str:
    write_html(page, path)
    return path.read_text(encoding="utf-8")


class Loads(HTMLParser):
    """Collects what a page would load, and which elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.urls += [value or "" for name, value in attrs if name in {"src", "href", "data", "srcset", "action"}]


def test_the_file_holds_everything_whole_and_loads_nothing(tmp_path: Path) -> None:
    page = html(PAGE, tmp_path / "page.html")
    for text in (HASH, OTHER, "What it is", "file://published", "this release", "a: 1\nb: 2", "That was all."):
        assert text in page
    loads = Loads()
    loads.feed(page)
    assert len(loads.urls) == 1
    assert loads.urls[0].startswith("data:image/png;base64,")
    assert not loads.elements & {"script", "link", "b"}
    assert not re.search(r"url\(|@import", page)
    assert "unet &amp; &lt;co&gt;" in page


def test_the_same_page_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    script = "from tests.component.test_audit_page import *; write_html(PAGE, Path(sys.argv[1]))"
    for seed in "12":
        command = [sys.executable, "-c", script, str(tmp_path / seed)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_narrow_terminal_gets_short_hashes_and_a_wide_one_whole_ones() -> None:
    narrow, wide = printed(PAGE, 80), printed(PAGE, 200)
    assert max(map(len, narrow.splitlines())) <= 80
    checks = narrow[narrow.index("Checks") : narrow.index("Lineage")]
    assert HASH[:16] in checks
    assert HASH[:17] not in checks
    assert HASH in narrow  # among the facts, where there is room
    assert wide.count(HASH) == 2
    assert OTHER in wide


def test_what_a_stranger_wrote_does_not_steer_the_terminal() -> None:
    text = printed(PAGE, 80)
    assert "\x1b" not in text
    assert r"[red]\x1b[31m" in text


def test_the_terminal_is_told_of_pictures_folded_text_and_lineage() -> None:
    text = printed(PAGE, 80)
    assert "this release: a picture of 30×20 pixels" in text
    assert "2 lines" in text
    assert re.search(r"stage +evaluate +1\.0 s +reference, train", text)


def test_a_long_table_is_cut_in_the_terminal_and_what_is_bad_is_shown() -> None:
    rows = [(f"row {number}", HASH) for number in range(25_000)]
    statuses: list[Status] = ["good"] * len(rows)
    statuses[20_000] = "bad"
    page = Page(
        "a", "b", [Rows("Checks", ("what", "found"), rows, statuses), Facts("Facts", {"long": "x" * 1_000_000})]
    )
    began = time.monotonic()
    text = printed(page, 80)
    assert time.monotonic() - began < 5
    assert "… and 24800 more; --json has all" in text
    assert "row 198 " in text
    assert "row 199 " not in text
    assert "row 20000 " in text
    assert len(text) < 100_000


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(ParameterError, match=r"name the file to write, such as .*index.html"):
        write_html(PAGE, tmp_path)
    assert (tmp_path / "kept").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be written .*; choose another file"):
        write_html(PAGE, tmp_path / "file" / "page.html")


def drawn(nodes: list[Node], edges: list[tuple[str, str]]) -> ET.Element:
    return ET.fromstring(draw(nodes, edges))  # noqa: S314  just drawn


def boxes(svg: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """Return each box's left, top, right and bottom by its title."""
    found = {}
    for part in svg.findall(f"{SVG}g"):
        for group in part.findall(f"{SVG}g"):
            left, top = (a + b for a, b in zip(moved(part), moved(group), strict=True))
            rect = group.find(f"{SVG}rect")
            title = group.findtext(f"{SVG}title")
            assert rect is not None
            assert title is not None
            found[title.split("\n")[0]] = (
                left,
                top,
                left + float(rect.get("width", 0)),
                top + float(rect.get("height", 0)),
            )
    return found


def moved(element: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"[-\d.]+", element.get("transform", ""))
    return float(x), float(y)


def paths(svg: ET.Element) -> list[list[tuple[float, float]]]:
    """Return each edge's points, with its level stretches whole."""
    found = []
    for part in svg.findall(f"{SVG}g"):
        dx, dy = moved(part)
        for path in part.findall(f"{SVG}path[@class]"):
            if path.get("class", "").startswith("edge"):
                x = y = 0.0
                points = []
                for command, numbers in re.findall(r"([MCH])([^MCH]+)", path.get("d", "")):
                    *_, x, y = [*map(float, numbers.split()), y] if command == "H" else map(float, numbers.split())
                    points.append((x + dx, y + dy))
                found.append(points)
    return found


def test_edges_run_from_the_right_border_of_one_box_to_the_left_border_of_the_next() -> None:
    svg = drawn(NODES, EDGES)
    at = boxes(svg)
    titles = {node.key: node.title for node in NODES}
    assert set(at) == set(titles.values())
    joined = set()
    for points in paths(svg):
        (x, y), (end, level) = points[0], points[-1]
        (source,) = [t for t, (_, top, right, bottom) in at.items() if abs(right - x) < 0.11 and top < y < bottom]
        (target,) = [t for t, (left, top, _, bottom) in at.items() if abs(left - end) < 0.11 and top < level < bottom]
        joined.add((source, target))
    assert joined == {(titles[source], titles[target]) for source, target in EDGES}


GRAPHS = st.integers(2, 14).flatmap(
    lambda n: st.lists(st.sampled_from(list(itertools.combinations(range(n), 2))), max_size=30).map(
        lambda edges: (
            [Node(str(i), "stage", f"node {i}", "x" * i, "") for i in range(n)],
            [(str(a), str(b)) for a, b in edges],
        )
    )
)


@settings(max_examples=40, deadline=None)
@given(GRAPHS)
def test_no_boxes_meet_and_no_edge_runs_under_one(graph: tuple[list[Node], list[tuple[str, str]]]) -> None:
    svg = drawn(*graph)
    at = list(boxes(svg).values())
    assert len(at) == len(graph[0])
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    for left, top, right, bottom in at:
        assert left >= 0 <= top
        assert right <= width + 0.5
        assert bottom <= height + 0.5
    for a, b in itertools.combinations(at, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for points in paths(svg):
        for (x, y), (end, _) in zip(points[1:-1:2], points[2::2], strict=True):
            assert not [box for box in at if box[0] < end - 0.2 and x + 0.2 < box[2] and box[1] < y < box[3]]


def test_what_is_too_long_for_a_box_is_cut_there_and_whole_in_the_tooltip() -> None:
    svg = drawn([Node("a", "prompts", "t" * 99, "d", HASH)], [])
    (group,) = svg.findall(f"{SVG}g/{SVG}g")
    title = group.findtext(f"{SVG}text")
    assert title is not None
    assert title.endswith("…")
    assert group.findtext(f"{SVG}title") == f"{'t' * 99}\nd\n{HASH}"


def test_a_lineage_in_a_circle_is_refused() -> None:
    with pytest.raises(ReleaseError, match=r"runs in a circle: .*train"):
        draw(NODES, [*EDGES, ("evaluate", "train")])
