"""Pictures that others may have written: PNG files, within limits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image

from distar.errors import DistarError

MAX_PIXELS = 32 * 1024**2


def read_png(content: bytes, shown_as: str, error: type[DistarError]) -> Image.Image:
    """Decode a PNG file as the project writes them.

    Args:
        content: a still picture of 8-bit RGB, at most 2²⁵ pixels large.
        shown_as: its name in messages.
        error: what is raised.

    Raises:
        DistarError: `error`: it is none; nothing larger is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            problem = _problem(image)
            if problem is None:
                image.load()
                return image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError, OverflowError) as caught:
        problem = str(caught)[:200] or type(caught).__name__
    except (Image.DecompressionBombError, Warning) as caught:
        problem = str(caught)[:200]
    raise error(f"{shown_as} is not a PNG file of 8-bit RGB that can be read: {problem}")


def _problem(image: Image.Image) -> str | None:
    """Say what of a picture's header is not as it should be."""
    if image.width * image.height > MAX_PIXELS:
        return f"it has {image.width} × {image.height} pixels; expected at most {MAX_PIXELS}"
    if getattr(image, "n_frames", 1) != 1:
        return f"it is animated ({getattr(image, 'n_frames', 1)} frames)"
    if image.mode != "RGB":
        return f"its pixels are {image.mode}"
    return None
