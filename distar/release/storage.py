"""Where releases are kept: content-addressed blobs, one manifest a release, aliases that point at releases.

    blobs/sha256/HASH     each distinct file, once
    releases/ID.json      the manifest; ID is its sha256; written after all its blobs
    aliases/NAME          the id that NAME points at

A reader that starts at a manifest never sees half a release, whenever the writer was stopped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from distar.atomic import written_whole
from distar.errors import ReleaseError
from distar.hashing import sha256_of
from distar.progress import track
from distar.release.package import MANIFEST, read_manifest

Outcome = Literal["created", "identical"]


class LocalStore:
    """A store in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, folder: Path) -> tuple[str, Outcome]:
        """Publish a packaged folder; return its id and whether it is new.

        Raises:
            ReleaseError: the folder is incomplete, or the store holds something else under the same hash.
        """
        release_id, files = read_manifest(folder)
        with track("publish", len(files)) as progress:
            for name, pin in files.items():
                blob = self.root / "blobs" / "sha256" / str(pin["sha256"])
                if blob.exists() and sha256_of(blob) != pin["sha256"]:
                    raise ReleaseError(
                        f"{blob} is damaged: its content does not match its name; remove it and publish again"
                    )
                if not blob.exists():
                    _place(folder / name, blob)
                progress.advance(note=name)
        manifest = self.root / "releases" / f"{release_id}.json"
        if manifest.exists():
            return release_id, "identical"
        _place(folder / MANIFEST, manifest)
        return release_id, "created"

    def point(self, alias: str, release_id: str) -> None:
        """Point an alias at a published release."""
        if not (self.root / "releases" / f"{release_id}.json").exists():
            raise ReleaseError(f"there is no release {release_id} in {self.root}; publish it first")
        with written_whole(self.root / "aliases" / alias) as path:
            path.write_text(release_id + "\n", encoding="utf-8")


def open_store(url: str) -> LocalStore:
    """Open the store that a URL names.

    Raises:
        ReleaseError: the scheme is unknown.
    """
    if not url.startswith("file://"):
        raise ReleaseError(f"publish.url: got {url!r}; expected file://folder")
    return LocalStore(Path(url.removeprefix("file://")))


def _place(source: Path, target: Path) -> None:
    with written_whole(target) as path:
        shutil.copyfile(source, path)
