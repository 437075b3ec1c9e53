"""Draw a scene of the tiny world as a 64x64 picture: a shaded icon with a soft shadow."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from distar.tiny.world import BACKGROUNDS, COLOURS, Scene

RESOLUTION = 64
_SUPERSAMPLING = 4

Outline = list[tuple[float, float]]


def render(scene: Scene) -> np.ndarray:
    """Draw one scene.

    Returns:
        uint8 array of shape (64, 64, 3), RGB.
    """
    mask = _coverage(scene)
    shadow = np.pad(_blur(mask, 2.2), ((2, 0), (1, 0)))[:RESOLUTION, :RESOLUTION]
    picture = _background(scene) * (1 - 0.30 * shadow * (1 - mask))[..., None]
    picture = picture * (1 - mask[..., None]) + _shaded_colour(scene, mask) * mask[..., None]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _coverage(scene: Scene) -> np.ndarray:
    """Rasterise the outline: the share of each pixel that the icon covers."""
    side = RESOLUTION * _SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    cos, sin = math.cos(scene.rotation), math.sin(scene.rotation)

    def place(outline: Outline) -> Outline:
        return [
            (
                (0.5 + scene.x + scene.size * (cos * u - sin * v)) * side,
                (0.5 + scene.y + scene.size * (sin * u + cos * v)) * side,
            )
            for u, v in outline
        ]

    filled, holes = _OUTLINES[scene.subject.shape]
    for outline in filled:
        draw.polygon(place(outline), fill=255)
    for outline in holes:
        draw.polygon(place(outline), fill=0)
    return np.asarray(image.reduce(_SUPERSAMPLING), np.float64) / 255


def _shaded_colour(scene: Scene, mask: np.ndarray) -> np.ndarray:
    """Colour the icon: vividness mixes with grey of equal brightness, light falls on a bevelled edge."""
    pure = np.array(COLOURS[scene.subject.colour], np.float64)
    grey = pure @ (0.299, 0.587, 0.114)
    colour = grey + scene.vividness * (pure - grey)
    slope_y, slope_x = np.gradient(_blur(mask, 2.0))
    lit = -(slope_x * math.cos(scene.light) + slope_y * math.sin(scene.light))
    rows, columns = np.mgrid[0:RESOLUTION, 0:RESOLUTION] / RESOLUTION - 0.5
    towards_light = (columns - scene.x) * math.cos(scene.light) + (rows - scene.y) * math.sin(scene.light)
    brightness = 1 + 1.6 * lit + 0.30 * towards_light / scene.size
    return np.clip(colour * np.clip(brightness, 0.55, 1.35)[..., None], 0, 255)


def _background(scene: Scene) -> np.ndarray:
    colour = np.array(BACKGROUNDS[scene.subject.background], np.float64)
    rows = np.linspace(1.03, 0.95, RESOLUTION)[:, None, None]
    return np.clip(np.broadcast_to(colour * rows, (RESOLUTION, RESOLUTION, 3)), 0, 255)


def _blur(mask: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(np.round(mask * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float64) / 255


def _radial(radius_of: list[float], start: float = -math.pi / 2) -> Outline:
    n = len(radius_of)
    return [
        (r * math.cos(start + 2 * math.pi * i / n), r * math.sin(start + 2 * math.pi * i / n))
        for i, r in enumerate(radius_of)
    ]


def _disc(radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Outline:
    return [(x + u, y + v) for u, v in _radial([radius] * 72)]


def _heart() -> Outline:
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    u = np.sin(angles) ** 3
    v = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)) / 16
    return list(zip(u.tolist(), (v - 0.08).tolist(), strict=True))


def _drop() -> Outline:
    round_part = [(0.68 * math.cos(a), 0.32 + 0.68 * math.sin(a)) for a in np.linspace(-0.45, math.pi + 0.45, 48)]
    return [*round_part, (0.0, -1.0)]


_CROSS: Outline = [
    (-0.32, -1.0), (0.32, -1.0), (0.32, -0.32), (1.0, -0.32), (1.0, 0.32), (0.32, 0.32),
    (0.32, 1.0), (-0.32, 1.0), (-0.32, 0.32), (-1.0, 0.32), (-1.0, -0.32), (-0.32, -0.32),
]  # fmt: skip
_ARROW: Outline = [(-1.0, -0.27), (0.12, -0.27), (0.12, -0.78), (1.0, 0.0), (0.12, 0.78), (0.12, 0.27), (-1.0, 0.27)]

# Each shape fits the unit circle: outlines to fill, then outlines to cut out.
_OUTLINES: dict[str, tuple[list[Outline], list[Outline]]] = {
    "circle": ([_disc(0.92)], []),
    "square": ([[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]], []),
    "triangle": ([_radial([1.0, 1.0, 1.0])], []),
    "star": ([_radial([1.0, 0.42] * 5)], []),
    "heart": ([_heart()], []),
    "moon": ([_disc(0.95)], [_disc(0.80, 0.42, -0.22)]),
    "cross": ([_CROSS], []),
    "ring": ([_disc(0.95)], [_disc(0.52)]),
    "drop": ([_drop()], []),
    "arrow": ([_ARROW], []),
}
