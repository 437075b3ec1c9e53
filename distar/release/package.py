"""Package a release: a folder that plain diffusers loads, with its card, parameters, metrics and manifest.

The manifest holds content alone (paths, sizes, sha256), so its hash, the release's id, is the same
whenever the same content is packaged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from distar.errors import ReleaseError
from distar.hashing import pin_folder

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Card:
    """What the model card says."""

    name: str
    licence: str
    notice: str
    profile: str
    timestep: int
    noise_scale: str
    network: str
    call_options: Mapping[str, object]
    example_prompt: str
    metrics: dict
    compare_by: str


def write_card(card: Card, path: Path) -> None:
    """Write the model card with its YAML metadata."""
    environment = Environment(  # noqa: S701  Markdown, not HTML: nothing to escape
        loader=PackageLoader("distar.release"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    path.write_text(environment.get_template("card.md.jinja").render(card=card), encoding="utf-8")


def copy_into(folder: Path, *files: Path) -> None:
    """Copy files into a release as files of its own (DVC's outputs may be links into its cache)."""
    for file in files:
        shutil.copyfile(file, folder / file.name)


def write_manifest(folder: Path) -> str:
    """Write the manifest of a folder's files and return the release's id."""
    text = json.dumps({"files": pin_folder(folder)}, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> bytes:
    """Read a packaged folder's manifest.

    Raises:
        ReleaseError: there is none.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ReleaseError(f"{path} does not exist; run `dvc repro package` first")
    return path.read_bytes()
