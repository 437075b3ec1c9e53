"""Sources on this machine, `file://path`."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from distar.atomic import written_whole
from distar.disk import refusal_told
from distar.fetching.source import FileMissingError, Known, Pin, Reading, below, possible_places
from distar.hashing import check_file, sha256_of

_REMEDY = "check the folder, and who may read and write it"


@dataclass(frozen=True)
class LocalFolder:
    """A folder, or a file, relative to the project."""

    url: str
    root: Path

    @classmethod
    def parse(cls, text: str, project: Path = Path()) -> LocalFolder | None:
        """Understand `file://path`, relative to the project, or return None."""
        path = text.removeprefix("file://")
        return cls(text, project / path) if path and path != text and "\0" not in path else None

    def files(self, patterns: tuple[str, ...]) -> dict[str, Known]:
        """Return the files that match, hashed."""
        with refusal_told(self.root, _REMEDY):
            found = [self.root] if self.root.is_file() else [path for path in self.root.rglob("*") if path.is_file()]
            paths = {path.as_posix(): Known(path.as_posix(), path.stat().st_size, None) for path in found}
            named = below(self.root.as_posix(), paths, patterns, self.url)
            return {name: known._replace(sha256=sha256_of(Path(known.place))) for name, known in named.items()}

    def places(self, name: str) -> list[str]:
        """Return where the file may lie."""
        return possible_places(self.root.as_posix(), name)

    def at_hand(self, place: str, pin: Pin) -> Path | None:
        """Return the file itself; whether it is the pinned one is seen when it is copied."""
        with refusal_told(Path(place), _REMEDY):
            return Path(place) if Path(place).is_file() else None

    def read(self, place: str, start: int) -> AbstractContextManager[Reading]:
        """Say that there is no such file: one that exists is at hand."""
        raise FileMissingError(f"{place} is pinned, but the file does not exist; restore it (git checkout)")

    def put(self, path: Path, name: str, pin: Pin) -> None:
        """Store a copy of a file."""
        with refusal_told(self.root / name, _REMEDY), written_whole(self.root / name) as target:
            shutil.copyfile(path, target)
            check_file(target, pin, str(path))
