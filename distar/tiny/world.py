"""The tiny world: what can be said in it, what a scene is, and who may see which captions.

A scene is an icon on a plain background. A caption names three attributes of it (shape, colour,
background); size, place, rotation, vividness and light are left to chance, as in photographs whose
captions never say everything.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "moon",
    "cross",
    "ring",
    "drop",
    "arrow",
)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 38, 42),
    "orange": (246, 138, 22),
    "yellow": (250, 216, 44),
    "lime": (168, 222, 50),
    "green": (38, 140, 66),
    "teal": (18, 162, 160),
    "blue": (38, 88, 224),
    "purple": (128, 54, 190),
    "pink": (246, 118, 182),
    "brown": (122, 72, 38),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (244, 244, 242),
    "sand": (228, 206, 160),
    "sky": (160, 204, 242),
    "mint": (176, 230, 198),
    "lavender": (206, 188, 236),
    "grey": (142, 144, 150),
    "charcoal": (56, 58, 62),
    "navy": (24, 34, 88),
}
ATTRIBUTES = (SHAPES, tuple(COLOURS), tuple(BACKGROUNDS))
"""The values of each attribute of a subject, in the order of `Subject`'s fields."""

TEMPLATES = (
    "{a} {colour} {shape} on {b} {background} background",
    "{a} {colour} {shape} against {background}",
    "{colour} {shape}, {background} backdrop",
    "an icon of {a} {colour} {shape} on {background}",
)

Split = Literal["train", "evaluation", "unseen"]
"""`train`: prompts the generator may be trained on. `evaluation`: seen by the reference alone.
`unseen`: combinations that no model of the tiny world was ever trained on."""

_SPLIT_SEED = 20410  # fixes which combination belongs to which split, for good
_NUM_UNSEEN = 120
_NUM_EVALUATION = 480


@dataclass(frozen=True)
class Subject:
    """What a caption says of a scene."""

    shape: str
    colour: str
    background: str

    def caption(self, template: int = 0) -> str:
        """Write the caption in one of the `TEMPLATES`."""
        return TEMPLATES[template].format(
            a=_article(self.colour),
            b=_article(self.background),
            colour=self.colour,
            shape=self.shape,
            background=self.background,
        )


@dataclass(frozen=True)
class Scene:
    """A subject with everything that its caption leaves open.

    `size` is the icon's radius and `x`, `y` its centre's offset, all in units of the picture's side;
    `rotation` and `light` are in radians; `vividness` runs from 0 (grey) to 1 (pure colour).
    """

    subject: Subject
    size: float
    x: float
    y: float
    rotation: float
    vividness: float
    light: float


def subjects() -> tuple[Subject, ...]:
    """Enumerate every combination of shape, colour and background, in a fixed order."""
    return tuple(Subject(*names) for names in itertools.product(SHAPES, COLOURS, BACKGROUNDS))


def split_subjects(split: Split) -> tuple[Subject, ...]:
    """Return the combinations of one split; the three splits are disjoint and cover the world."""
    everything = subjects()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(everything))
    bounds = {
        "unseen": slice(0, _NUM_UNSEEN),
        "evaluation": slice(_NUM_UNSEEN, _NUM_UNSEEN + _NUM_EVALUATION),
        "train": slice(_NUM_UNSEEN + _NUM_EVALUATION, None),
    }
    return tuple(everything[i] for i in sorted(order[bounds[split]]))


def sample_scene(subject: Subject, rng: np.random.Generator) -> Scene:
    """Draw what the caption leaves open; the subject always stays within the picture."""
    size = rng.uniform(0.24, 0.40)
    room = min(0.12, 0.47 - size)
    return Scene(
        subject=subject,
        size=size,
        x=rng.uniform(-room, room),
        y=rng.uniform(-room, room),
        rotation=rng.uniform(-0.25, 0.25),
        vividness=rng.uniform(0.4, 1.0),
        light=rng.uniform(-2.0, -1.1),
    )


def parse_caption(caption: str) -> Subject:
    """Read the three attributes back out of a caption written in any template.

    Raises:
        ValueError: the caption does not name one shape, one colour and one background.
    """
    words = caption.lower().replace(",", " ").split()
    found = [[w for w in words if w in names] for names in (SHAPES, COLOURS, BACKGROUNDS)]
    if any(len(names) != 1 for names in found):
        raise ValueError(
            f"the caption {caption!r} names {found[0]} as shape, {found[1]} as colour and {found[2]} as "
            "background; the tiny world's judge needs exactly one of each "
            f"(shapes: {', '.join(SHAPES)}; colours: {', '.join(COLOURS)}; backgrounds: {', '.join(BACKGROUNDS)})"
        )
    return Subject(*(names[0] for names in found))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
