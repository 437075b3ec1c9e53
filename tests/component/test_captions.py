"""Captions of the sample grid: any text stays in its column, above the labels, in letters that can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from distar.evaluation.captions import _BOX, LINE_HEIGHT, _fonts, _shown, _width, draw_caption, wrap
from tests.references import REPOSITORY

WIDTH, MAX_LINES = 120, 5
CAPTIONS = {
    "parti": "Oil-on-canvas painting of a blue night sky with roiling energy. A fuzzy and bright yellow crescent moon "
    "shining at the top. Below the exploding yellow stars and radiating swirls of blue, a distant village sits quietly",
    "japanese": "夕焼けの海辺で本を読んでいる猫、水彩画風、暖かい光とやわらかい影",
    "chinese": "一只戴着红色围巾的熊猫在雪地里弹钢琴，背景是富士山，电影级光效",
    "korean": "눈 덮인 산 위를 나는 빨간 용과 작은 마을",
    "arabic": "قطة صغيرة تجلس على كرسي أزرق قرب النافذة في المساء",
    "hebrew": "כלב לבן רץ על החוף בשקיעה עם כדור",
    "russian": "Кошка в космосе, ёжик в тумане, цифровая живопись",
    "french": "un café très naïf à l'œuvre, où l'été s'achève — « voilà »…",
}
HOSTILE = [
    "",
    " ",
    "\u200b\u202e\ufeff",
    "https://example.org/" + "x" * 5000,
    "w " * 5000,
    "\U0001f469\u200d\U0001f680\U0001f1e9\U0001f1ea" * 40,
    "e" + "\u0301" * 3000,
    "\x00\ud800\udfff\x7f\u0085",
    "漢" * 5000,
    "\u0644\u0627" * 500,
]


def canvas(lines: list[str]) -> np.ndarray:
    """Draw a caption in a wide margin of white; return where something is drawn."""
    image = Image.new("RGB", (WIDTH + 200, LINE_HEIGHT * (MAX_LINES + 4)), "white")
    draw_caption(ImageDraw.Draw(image), 100, LINE_HEIGHT, WIDTH, lines)
    return np.asarray(image).min(axis=2) < 255


def assert_stays_inside(text: str) -> list[str]:
    lines = wrap(text, WIDTH, MAX_LINES)
    assert len(lines) <= MAX_LINES
    assert all(_width(line) <= WIDTH for line in lines)
    rows, columns = np.nonzero(canvas(lines))
    if len(rows):
        assert columns.min() >= 98
        assert columns.max() <= 102 + WIDTH  # a letter may lean over its width
    return lines


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_many_scripts_are_read(name: str) -> None:
    lines = assert_stays_inside(CAPTIONS[name])
    assert _BOX not in _shown(CAPTIONS[name])
    whole = "".join(lines).replace(" ", "")
    if whole.endswith("…") and name != "french":
        assert CAPTIONS[name].replace(" ", "").startswith(whole[:-1])
        assert len(lines) == MAX_LINES
    else:
        assert whole == CAPTIONS[name].replace(" ", "")
    rows, _ = np.nonzero(canvas(lines))
    assert rows.max() < LINE_HEIGHT * (len(lines) + 1) + 3  # above the label


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_captions_stay_in_their_column(text: str) -> None:
    assert_stays_inside(text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=120))
def test_any_text_stays_in_its_column(text: str) -> None:
    assert_stays_inside(text)


def test_different_characters_look_different() -> None:
    seen = {canvas([char]).tobytes() for char in "東京雪月花汉字한글あいعربЖαÄ"}
    assert len(seen) == len("東京雪月花汉字한글あいعربЖαÄ")


def test_what_no_font_has_is_a_box() -> None:
    assert _shown("a \U0001f469\u200d\U0001f680 b \U0001f31f") == f"a {_BOX} b {_BOX}"
    assert canvas([_BOX]).any()


def test_latin_text_is_drawn_by_pillows_own_font() -> None:
    """The bytes that the embedded world's captions always had."""
    font = ImageFont.load_default(11)
    captions = (REPOSITORY / "models" / "tiny" / "prompts" / "evaluation.txt").read_text().splitlines()
    for caption in captions[:40]:
        lines = wrap(caption, WIDTH, MAX_LINES)
        image = Image.new("RGB", (WIDTH + 200, LINE_HEIGHT * (MAX_LINES + 4)), "white")
        ImageDraw.Draw(image).multiline_text((100, LINE_HEIGHT), "\n".join(lines), fill="black", font=font)
        assert ((np.asarray(image).min(axis=2) < 255) == canvas(lines)).all()


def test_fonts_come_with_the_project() -> None:
    *_, droid = _fonts()
    assert Path(str(droid.font.path)).is_relative_to(REPOSITORY / "distar")
    assert Path(str(droid.font.path)).stat().st_size < 5_000_000
