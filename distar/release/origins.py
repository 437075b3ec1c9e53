"""What a release derives from or was measured with: each source with its licence, hashes and licence texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distar.fetching.hub import HubRepository
from distar.fetching.source import Pin, matches
from distar.model_files import LICENCE_TEXTS


@dataclass(frozen=True)
class Origin:
    """A model, or data, by its source.

    Attributes:
        name: what it is to the release, as in `rewards/hps` or `prompts/train`.
        licence: its identifier on the hub, or `unknown` where its source states none.
        files: the pinned files by their path in the source.
        sha256: the hash of a prompt set, which is not one of its files'.
        texts: the licence's text and notices that the release hands on, by their place in it.
    """

    name: str
    kind: Literal["model", "data"]
    source: str
    licence: str
    files: Mapping[str, Pin]
    sha256: str | None = None
    texts: Mapping[str, Path] = field(default_factory=dict)

    @property
    def repository(self) -> HubRepository | None:
        """The hub's repository that it is from, if it is from the hub."""
        return HubRepository.parse(self.source)


def licence_texts(name: str, folder: Path) -> dict[str, Path]:
    """Return the licence texts and notices at the top of a fetched folder, by their place in a release."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and matches(path.name, LICENCE_TEXTS))
    return {f"licences/{name}/{path.name}": path for path in found}
