"""Captions of pictures: any script, wrapped to a column's width, with fonts that come with the project.

No font of the system is used, so a caption looks the same on every machine. Latin text is in Pillow's own font; Greek,
Cyrillic, Arabic and Hebrew in DejaVu Sans, which comes with matplotlib; Chinese, Japanese and Korean in Droid Sans
Fallback, which lies in `fonts`. What none of them has, such as most emoji, is shown as a box.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib
import regex
from fontTools.ttLib import TTFont
from PIL import ImageDraw, ImageFont, features

LINE_HEIGHT = 15
_SIZE, _LINE_LENGTH = 11, 20
_BOX = "\N{WHITE SQUARE}"
_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_DROID = Path(__file__).parent / "fonts" / "DroidSansFallback.ttf"
_CLUSTER = regex.compile(r"\X")
_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cf}\p{Cs}]")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{So}]")
_RIGHT_TO_LEFT = {"R", "AL"}


class _Font(NamedTuple):
    font: ImageFont.FreeTypeFont
    characters: frozenset[int]


class _Run(NamedTuple):
    """Neighbouring characters that one font draws."""

    text: str
    font: ImageFont.FreeTypeFont


def wrap(text: str, width: int, max_lines: int) -> list[str]:
    """Break a caption into lines no wider than `width` pixels; what does not fit into `max_lines` becomes an ellipsis.

    Lines break at spaces, and within a word where its script has none or it is wider than a line.
    """
    lines, line = [], ""
    for piece, space in _pieces(_shown(text), width):
        longer = f"{line}{space}{piece}" if line else piece
        if line and (len(longer) > _LINE_LENGTH or _width(longer) > width):
            lines.append(line)
            longer = piece
            if len(lines) > max_lines:
                break
        line = longer
    lines.append(line)
    if len(lines) <= max_lines:
        return lines
    last = _CLUSTER.findall(lines[max_lines - 1])
    while last and _width("".join(last).rstrip() + "…") > width:
        last.pop()
    return [*lines[: max_lines - 1], "".join(last).rstrip() + "…"]


def draw_caption(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, lines: list[str]) -> None:
    """Draw a caption's lines; those of a script that runs from right to left end at the right."""
    ascent, _ = _fonts()[0].font.getmetrics()
    for number, line in enumerate(lines):
        runs, baseline = _runs(line), top + number * LINE_HEIGHT + ascent
        x = float(left)
        if _is_right_to_left(line):
            runs.reverse()
            x = left + width - _width(line)
        for run in runs:
            text = run.text if features.check("raqm") else _in_visual_order(run.text)
            draw.text((x, baseline), text, fill="black", font=run.font, anchor="ls")
            x += run.font.getlength(run.text)


def _shown(text: str) -> str:
    """Replace what no font has by a box, cluster by cluster, and drop what is not seen."""
    drawn = []
    for cluster in _CLUSTER.findall(unicodedata.normalize("NFC", " ".join(text.split()))):
        seen = _UNSEEN.sub("", cluster)
        if seen:
            drawn.append(seen if seen.isspace() or _font_of(seen) else _BOX)
    return "".join(drawn)


def _pieces(text: str, width: int) -> Iterator[tuple[str, str]]:
    """Cut a text where a line may break; each piece comes with the space before it."""
    for word in text.split(" "):
        space = " "
        for piece in _cut_where_unspaced(word):
            for part in _cut_to_width(piece, width):
                yield part, space
                space = ""


def _cut_where_unspaced(word: str) -> Iterator[str]:
    piece = ""
    for cluster in _CLUSTER.findall(word):
        unspaced = bool(_UNSPACED.match(cluster))
        if piece and (unspaced or _UNSPACED.match(piece[-1])) and unicodedata.category(cluster[0])[0] != "P":
            yield piece
            piece = ""
        piece += cluster
    if piece:
        yield piece


def _cut_to_width(piece: str, width: int) -> Iterator[str]:
    part = ""
    for cluster in _CLUSTER.findall(piece):
        if part and _width(part + cluster) > width:
            yield part
            part = ""
        part += cluster
    yield part


def _width(line: str) -> float:
    return sum((run.font.getlength(run.text) for run in _runs(line)), 0.0)


def _runs(line: str) -> list[_Run]:
    """Part a line by font; spaces go with what is before them."""
    fonts: list[tuple[str, ImageFont.FreeTypeFont]] = []
    for cluster in _CLUSTER.findall(line):
        found = None if cluster.isspace() and fonts else _font_of(cluster)
        fonts.append((cluster, found or (fonts[-1][1] if fonts else _fonts()[0].font)))
    return [
        _Run("".join(cluster for cluster, _ in run), font)
        for _, run in groupby(fonts, key=lambda one: id(one[1]))
        for run in [list(run)]
        for font in [run[0][1]]
    ]


def _font_of(cluster: str) -> ImageFont.FreeTypeFont | None:
    codes = {ord(char) for char in cluster}
    return next((one.font for one in _fonts() if codes <= one.characters), None)


def _in_visual_order(text: str) -> str:
    """Turn text from right to left round, for where Pillow finds no library that does (and joins Arabic's letters)."""
    return "".join(reversed(_CLUSTER.findall(text))) if _is_right_to_left(text) else text


def _is_right_to_left(line: str) -> bool:
    strong = (unicodedata.bidirectional(char) for char in line)
    return next((kind in _RIGHT_TO_LEFT for kind in strong if kind in _RIGHT_TO_LEFT | {"L"}), False)


@cache
def _fonts() -> tuple[_Font, ...]:
    latin = ImageFont.load_default(_SIZE)
    assert isinstance(latin, ImageFont.FreeTypeFont)  # noqa: S101  Pillow is built with FreeType
    files = (BytesIO(latin.font_bytes), _DEJAVU, _DROID)
    fonts = (latin, ImageFont.truetype(_DEJAVU, _SIZE), ImageFont.truetype(_DROID, _SIZE + 1))
    return tuple(_Font(font, _characters_of(file)) for font, file in zip(fonts, files, strict=True))


def _characters_of(file: BytesIO | Path) -> frozenset[int]:
    with TTFont(file, lazy=True) as font:
        return frozenset(font.getBestCmap() or ())
