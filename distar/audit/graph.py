"""The lineage as a picture: boxes in layers from left to right, drawn as inline SVG."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from random import Random
from typing import Any, Literal

from grandalf.graphs import Edge, Vertex, graph_core
from grandalf.layouts import SugiyamaLayout, VertexViewer
from markupsafe import Markup

from distar.errors import ReleaseError

Kind = Literal["commit", "parameters", "environment", "prompts", "reference", "reward", "stage", "release"]
Point = tuple[float, float]

# kind: its colour on light paper, on dark
_COLOURS: dict[Kind, tuple[str, str]] = {
    "commit": ("#c2410c", "#fb923c"),
    "parameters": ("#a16207", "#eab308"),
    "environment": ("#0e7490", "#22d3ee"),
    "prompts": ("#2563eb", "#7aa7ff"),
    "reference": ("#7c3aed", "#b197fc"),
    "reward": ("#be185d", "#f472b6"),
    "stage": ("#475467", "#98a2b3"),
    "release": ("#1f7a5c", "#43c596"),
}

_HEIGHT = 46  # of a box; all lengths are CSS pixels
_PADDING = 12  # between a box's border and its text
_WIDEST = 232.0  # a longer text is cut, and stands whole in the tooltip
_BETWEEN_BOXES = 20
_CLOSEST_LAYERS, _FURTHEST_LAYERS = 38, 84
_STEEPNESS = 0.24  # layers lie as far apart as this share of the highest step that an edge takes between them
_LANE = 8  # what an edge takes up where it passes between the boxes of a layer
_BETWEEN_PORTS = 8  # the ends of several edges at one border
_MARGIN = 4
_ROW_WIDTH = 1000.0  # of boxes without edges, where nothing else gives a width
_TITLE_CHARACTER = 9.0  # at 13 pixels, semi-bold; the widths are estimates on the safe side
_DETAIL_CHARACTER = 6.7  # at 11 pixels, monospaced
_LEAST_SCALE = 0.8  # a narrow page shrinks the picture as far; then it scrolls
_ROUNDS_OF_ORDERING = 4
_TRIES = 24
_COST_OF_CROSSING = 60  # in pixels of edges' steps


@dataclass(frozen=True)
class Node:
    """A box: a title, a small line below it (a short hash, seconds) and what a reader who points at it is told."""

    key: str
    kind: Kind
    title: str
    detail: str
    tooltip: str


@dataclass(frozen=True)
class _Box:
    """A node's place: its top left corner and its width."""

    node: Node
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        """How far down its middle lies."""
        return self.y + _HEIGHT / 2


@dataclass(frozen=True)
class _Part:
    """A connected part of the graph, placed at the origin; an edge is a list of points, two for each layer it meets."""

    boxes: list[_Box]
    edges: list[tuple[Node, list[Point]]]
    width: float
    height: float


def draw(nodes: Sequence[Node], edges: Iterable[tuple[str, str]]) -> str:
    """Draw nodes and the edges (from key, to key) between them as an SVG element, the same for the same graph.

    What a node is made from stands left of it. A node without edges holds for all others, and stands in a row above
    them. The element brings its style, with a class `kind-KIND` that sets `--kind` to the kind's colour.

    Raises:
        ReleaseError: the edges run in a circle.
    """
    edges = list(dict.fromkeys(edges))
    _refuse_circles(edges)
    joined = {key for edge in edges for key in edge}
    connected = _connected([node for node in nodes if node.key in joined], edges)
    parts = [_layered(group, edges) for group in connected]
    width = max((part.width for part in parts), default=_ROW_WIDTH)
    alone = [node for node in nodes if node.key not in joined]
    if alone:
        parts = [_row(alone, max(width, *map(_width, alone))), *parts]
    drawn, top = [], 0.0
    for part in parts:
        drawn.append(
            Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(_MARGIN, _MARGIN + top, _svg(part))
        )
        top += part.height + 2 * _BETWEEN_BOXES
    width = max((part.width for part in parts), default=0) + 2 * _MARGIN
    height = max(top - 2 * _BETWEEN_BOXES, 0) + 2 * _MARGIN
    svg = Markup(
        '<svg class="lineage" role="img" aria-label="lineage" xmlns="http://www.w3.org/2000/svg" '
        'width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" '
        'style="min-width:{2:.0f}px;max-width:100%;height:auto">{3}{4}</svg>'
    ).format(width, height, _LEAST_SCALE * width, _style(), Markup("\n").join(drawn))
    return str(svg)


def _refuse_circles(edges: list[tuple[str, str]]) -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for source, target in edges:
        sorter.add(target, source)
    try:
        sorter.prepare()
    except CycleError as error:
        raise ReleaseError(
            f"the lineage runs in a circle: {' → '.join(error.args[1])}; nothing can be made from itself: "
            "the record that says so is wrong"
        ) from error


def _row(nodes: list[Node], limit: float) -> _Part:
    """Place nodes side by side, and below where the row is full."""
    boxes: list[_Box] = []
    x = y = 0.0
    for node in nodes:
        if x and x + _width(node) > limit:
            x, y = 0.0, y + _HEIGHT + _BETWEEN_BOXES
        boxes.append(_Box(node, x, y, _width(node)))
        x += _width(node) + _BETWEEN_BOXES
    return _Part(boxes, [], max(box.x + box.width for box in boxes), y + _HEIGHT)


def _connected(nodes: list[Node], edges: list[tuple[str, str]]) -> list[list[Node]]:
    """Part the nodes into those that edges join."""
    groups = {node.key: [node] for node in nodes}
    for source, target in edges:
        if groups[source] is not groups[target]:
            groups[source] += groups[target]
            groups |= {node.key: groups[source] for node in groups[target]}
    return list({id(group): group for group in groups.values()}.values())


def _layered(nodes: list[Node], edges: list[tuple[str, str]]) -> _Part:
    """Place connected nodes in layers, so that every edge goes to the right.

    The layout's heuristics start from the order of nodes and edges: the tidiest of several is taken.
    """
    keys = {node.key for node in nodes}
    edges = [edge for edge in edges if edge[0] in keys]
    chance = Random(0)
    return min(
        (_placed(chance.sample(nodes, len(nodes)), chance.sample(edges, len(edges))) for _ in range(_TRIES)),
        key=_untidiness,
    )


def _untidiness(part: _Part) -> float:
    """Weigh crossings and steps of edges, and the height of the whole."""
    steps = sorted(
        (x, y, next_y)
        for _, points in part.edges
        for (x, y), (_, next_y) in zip(points[::2], points[1::2], strict=True)
    )
    crossings = sum(
        a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < 0 for place, a in enumerate(steps) for b in steps[:place]
    )
    return _COST_OF_CROSSING * crossings + sum(abs(y - next_y) for _, y, next_y in steps) + part.height


def _placed(nodes: list[Node], edges: list[tuple[str, str]]) -> _Part:
    vertices: dict[str, Any] = {node.key: Vertex(node) for node in nodes}
    for vertex in vertices.values():
        vertex.view = VertexViewer(_HEIGHT, 1)  # layers lie on top of one another there, and side by side here
    core = graph_core(vertices.values(), [Edge(vertices[source], vertices[target]) for source, target in edges])
    layout = SugiyamaLayout(core)
    layout.xspace, layout.dw, layout.dh = _BETWEEN_BOXES, _LANE, 1
    layout.init_all(optimize=True)
    layout.draw(_ROUNDS_OF_ORDERING)
    courses = {edge: _course(layout, edge) for edge in core.sE}
    layers = [[v for v in layer if v in core.sV] for layer in layout.layers]  # without the places that edges pass
    widths = [max(_width(v.data) for v in layer) for layer in layers]
    lefts = [0.0]
    for rank, width in enumerate(widths[:-1]):
        steps = [
            abs(course[rank + 1] - course[rank]) for course in courses.values() if {rank, rank + 1} <= course.keys()
        ]
        lefts.append(lefts[-1] + width + min(max(_STEEPNESS * max(steps), _CLOSEST_LAYERS), _FURTHEST_LAYERS))
    top = min(v.view.xy[0] - v.view.w / 2 for layer in layout.layers for v in layer)
    bottom = max(v.view.xy[0] + v.view.w / 2 for layer in layout.layers for v in layer)

    def box(node: Node, rank: int, middle: float) -> _Box:
        return _Box(node, lefts[rank], middle - top - _HEIGHT / 2, widths[rank])

    boxes = [box(v.data, rank, v.view.xy[0]) for rank, layer in enumerate(layers) for v in layer]
    ways = {
        tuple(v.data.key for v in edge.v): [box(edge.v[0].data, *place) for place in course.items()]
        for edge, course in courses.items()
    }
    return _Part(boxes, _edges(ways), lefts[-1] + widths[-1], bottom - top)


def _course(layout: SugiyamaLayout, edge: Any) -> dict[int, float]:
    """Tell at which height an edge passes each layer, from its source's to its target's."""
    ends = {layout.grx[vertex].rank: vertex for vertex in edge.v}
    return {rank: vertex.view.xy[0] for rank, vertex in sorted(layout.ctrls.get(edge, ends).items())}


def _edges(ways: dict[tuple[str, str], list[_Box]]) -> list[tuple[Node, list[Point]]]:
    """Turn the boxes and lanes that each edge passes into points; at a border the edges' ends lie side by side."""
    leaving, arriving = _ports(ways, 0, 1), _ports(ways, -1, -2)
    edges = []
    for key, (source, *lanes, target) in ways.items():
        points = [(source.x + source.width, source.middle + leaving[key])]
        for lane in lanes:
            points += [(lane.x, lane.middle), (lane.x + lane.width, lane.middle)]
        edges.append((source.node, [*points, (target.x, target.middle + arriving[key])]))
    return edges


def _ports(ways: dict[tuple[str, str], list[_Box]], end: int, neighbour: int) -> dict[tuple[str, str], float]:
    """Tell how far from the box's middle each edge ends, so that edges to one box do not cross before it."""
    at_box: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(ways, key=lambda key: ways[key][neighbour].y):
        at_box.setdefault(key[end], []).append(key)
    ports = {}
    for keys in at_box.values():
        apart = min(_BETWEEN_PORTS, (_HEIGHT - _PADDING) / max(len(keys) - 1, 1))
        ports |= {key: (place - (len(keys) - 1) / 2) * apart for place, key in enumerate(keys)}
    return ports


def _svg(part: _Part) -> Markup:
    """Write a part's edges, and its boxes over them."""
    drawn = []
    for source, points in part.edges:
        (x, y), *rest = points
        *_, (end, level) = points
        path = f"M{x:.1f} {y:.1f}"
        for place, (next_x, next_y) in enumerate(rest):
            across = (x + next_x) / 2
            curve = f"C{across:.1f} {y:.1f} {across:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}"
            path += curve if place % 2 == 0 else f"H{next_x:.1f}"
            x, y = next_x, next_y
        drawn.append(
            Markup(
                '<path class="edge kind-{}" d="{}"/><path class="arrow kind-{}" d="M{:.1f} {:.1f}l-7 -3.5v7z"/>'
            ).format(source.kind, path, source.kind, end, level)
        )
    for box in part.boxes:
        node, limit = box.node, box.width - 2 * _PADDING
        drawn.append(
            Markup(
                '<g class="node kind-{}" transform="translate({:.1f} {:.1f})"><title>{}</title>'
                '<rect width="{:.1f}" height="{}" rx="9"/>'
                '<text x="{p}" y="19">{}</text><text class="detail" x="{p}" y="35">{}</text></g>'
            ).format(
                node.kind,
                box.x,
                box.y,
                "\n".join(dict.fromkeys((node.title, node.detail, node.tooltip))).strip(),
                box.width,
                _HEIGHT,
                _cut(node.title, limit / _TITLE_CHARACTER),
                _cut(node.detail, limit / _DETAIL_CHARACTER),
                p=_PADDING,
            )
        )
    return Markup("\n").join(drawn)


def _width(node: Node) -> float:
    text = max(_columns(node.title) * _TITLE_CHARACTER, _columns(node.detail) * _DETAIL_CHARACTER)
    return min(text + 2 * _PADDING, _WIDEST)


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cut(text: str, columns: float) -> str:
    if _columns(text) <= columns + 0.01:
        return text
    while _columns(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def _style() -> Markup:
    rule = Markup(".kind-{}{{--kind:{}}}")
    light, dark = (
        Markup("").join(rule.format(kind, colours[which]) for kind, colours in _COLOURS.items()) for which in (0, 1)
    )
    return Markup(
        "<style>{}@media(prefers-color-scheme:dark){{{}}}"
        ".lineage rect{{fill:var(--kind);fill-opacity:.09;stroke:var(--kind);stroke-width:1.25}}"
        ".lineage .kind-release rect{{fill-opacity:.22;stroke-width:2}}"
        ".lineage .node:hover rect{{fill-opacity:.3}}"
        ".lineage text{{font:600 13px system-ui,sans-serif;fill:currentColor}}"
        ".lineage .detail{{font:11px ui-monospace,monospace;opacity:.72}}"
        ".lineage .edge{{fill:none;stroke:var(--kind);stroke-width:1.4;stroke-opacity:.6}}"
        ".lineage .arrow{{fill:var(--kind)}}</style>"
    ).format(light, dark)
