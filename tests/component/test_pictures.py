"""Pictures are read as the project writes them, or refused soon."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from PIL import Image

from distar.errors import ReleaseError
from distar.pictures import read_png
from tests.component.test_prompt_encodings import mutated

PIXELS = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


RGB = Image.fromarray(PIXELS)
GOOD = saved(RGB)
BAD: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"no picture",
    "cut off": lambda: GOOD[:-40],
    "cut off in the header": lambda: GOOD[:20],
    "damaged": lambda: GOOD[:60] + b"\xff\xff\xff" + GOOD[63:],
    "JPEG": lambda: saved(RGB, "JPEG"),
    "GIF": lambda: saved(RGB, "GIF"),
    "CMYK": lambda: saved(RGB.convert("CMYK"), "TIFF"),
    "grey": lambda: saved(RGB.convert("L")),
    "palette": lambda: saved(RGB.convert("P")),
    "transparent": lambda: saved(RGB.convert("RGBA")),
    "16 bits": lambda: saved(Image.fromarray(PIXELS[:, :, 0].astype(np.uint16))),
    "animated": lambda: saved(RGB, save_all=True, append_images=[RGB.rotate(180)]),
    "large": lambda: png_of_size(8192, 8192),
    "a bomb": lambda: png_of_size(100_000, 100_000),
    "a monster": lambda: png_of_size(2**31 - 1, 2**31 - 1),
    "no width": lambda: png_of_size(0, 8),
    "much text": lambda: GOOD[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))) + GOOD[33:],
}


def test_what_was_written_is_read() -> None:
    assert (np.asarray(read_png(GOOD, "x", ReleaseError)) == PIXELS).all()


@pytest.mark.parametrize("case", BAD)
def test_other_pictures_are_refused(case: str) -> None:
    content, begun = BAD[case](), time.monotonic()
    with pytest.raises(ReleaseError, match=r"^grid\.png is not a PNG file of 8-bit RGB that can be read: ."):
        read_png(content, "grid.png", ReleaseError)
    assert time.monotonic() - begun < 5


def fuzz(max_examples: int) -> None:
    @seed(21)
    @settings(max_examples=max_examples, deadline=5000, database=None)
    @given(mutated(GOOD))
    def reads_or_refuses(content: bytes) -> None:
        with contextlib.suppress(ReleaseError):
            assert read_png(content, "x", ReleaseError).mode == "RGB"

    reads_or_refuses()


def test_mutated_pictures_are_read_or_refused() -> None:
    fuzz(300)


@pytest.mark.slow
def test_many_mutated_pictures_are_read_or_refused() -> None:
    fuzz(10_000)
