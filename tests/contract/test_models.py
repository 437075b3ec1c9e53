"""The models that ship with the project: small, and the very files that the lock pins."""

from __future__ import annotations

import pytest

from distar.fetching import read_pins
from distar.hashing import check_file
from distar.params import lock_path
from distar.tiny.build import MODELS_DIR
from tests.miniature import REPOSITORY

PINS = read_pins(REPOSITORY / lock_path("tiny"))


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in (REPOSITORY / MODELS_DIR).rglob("*") if path.is_file()) <= 20_000_000


@pytest.mark.parametrize("source", PINS)
def test_they_are_what_the_lock_pins(source: str) -> None:
    folder = REPOSITORY / source.removeprefix("file://")
    for name, pin in PINS[source].items():
        check_file(folder / name, pin, shown_as=f"{source}/{name}")
