"""Package a release: a folder that plain diffusers loads, with its card, parameters, metrics and manifest.

The manifest holds content alone (paths, sizes, sha256), so its hash, the release's id, is the same
whenever the same content is packaged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from distar.errors import ReleaseError
from distar.hashing import pin_folder
from distar.release.origins import Origin

MANIFEST = "manifest.json"
LICENCES_PAGE = "LICENCES.md"


@dataclass(frozen=True)
class Card:
    """What the model card, the page of licences and the bill of materials say."""

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
    origins: Sequence[Origin]

    @property
    def base_models(self) -> list[str]:
        """The hub's repositories that the network derives from."""
        return self._repositories("model", ("reference", "initial_generator"))

    @property
    def datasets(self) -> list[str]:
        """The hub's data sets that the prompts are from."""
        return self._repositories("dataset", ("prompts/train", "prompts/evaluation"))

    def _repositories(self, kind: str, names: tuple[str, ...]) -> list[str]:
        repositories = [origin.repository for origin in self.origins if origin.name in names]
        return [found.repository for found in repositories if found and found.kind == kind]


def write_card(card: Card, path: Path) -> None:
    """Write the model card with its YAML metadata."""
    path.write_text(_render("card.md.jinja", card), encoding="utf-8")


def write_licences(card: Card, folder: Path) -> None:
    """Write the page that lists the licence of each origin, and the texts that belong to it."""
    for origin in card.origins:
        for place, text in origin.texts.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, folder / place)
    (folder / LICENCES_PAGE).write_text(_render("licences.md.jinja", card), encoding="utf-8")


def _render(template: str, card: Card) -> str:
    environment = Environment(  # noqa: S701  Markdown, not HTML: nothing to escape
        loader=PackageLoader("distar.release"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["as_python"] = _as_python
    return environment.get_template(template).render(card=card)


def _as_python(value: object) -> str:
    """Write a value as Python code: text in ", what is not printed or would end a fence of Markdown as an escape."""
    if not isinstance(value, str):
        return repr(value)
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}
    text = "".join(escapes.get(char) or (char if char.isprintable() else ascii(char)[1:-1]) for char in value)
    return '"' + text.replace("```", "\\x60" * 3) + '"'


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
