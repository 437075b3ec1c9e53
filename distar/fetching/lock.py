"""Lock files: the sha256 and size of every file that a profile needs, beside the profile.

{"SOURCE": {"path/in/folder": {"sha256": "…", "bytes": 123}, …}, …}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel
from typing_extensions import TypedDict

from distar.atomic import written_whole
from distar.documents import content_of, read_json, validated
from distar.errors import ModelFileError
from distar.fetching.downloads import digest, with_retries
from distar.fetching.hub import source_at_revision
from distar.fetching.parallel import Work, in_parallel
from distar.fetching.source import Known, Pin, Source, matches
from distar.fetching.sources import open_source
from distar.model_files import ModelFiles

Pins = dict[str, dict[str, Pin]]


class _Pinned(TypedDict):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, strict=True)]


class _Pins(RootModel[dict[str, dict[str, _Pinned]]]):
    """A lock file."""


def read_pins(path: Path) -> Pins:
    """Read a profile's lock file.

    Raises:
        ModelFileError: it is missing, or not such a file.
    """
    shown_as = f"the lock file {path}"
    content = content_of(
        path, ModelFileError, "it pins the sha256 of every model file: write it with `distar models lock`"
    )
    pins = validated(_Pins, read_json(content, shown_as, ModelFileError), shown_as, ModelFileError).root
    return {
        source: {name: {"sha256": pin["sha256"], "bytes": pin["bytes"]} for name, pin in files.items()}
        for source, files in pins.items()
    }


def write_pins(pins: Pins, path: Path) -> None:
    """Write a lock file whole, in a fixed order."""
    with written_whole(path) as partial:
        ordered = {source: dict(sorted(files.items())) for source, files in sorted(pins.items())}
        partial.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def pins_of(files: ModelFiles, pins: Pins) -> dict[str, Pin]:
    """Return the pins of the files that a component needs.

    Raises:
        ModelFileError: they are not all pinned.
    """
    if files.source not in pins:
        raise ModelFileError(
            f"{files.source} is not pinned (run `distar models lock`); the lock file has {', '.join(pins) or 'nothing'}"
        )
    pinned = pins[files.source]
    lacking = _lacking(files, pinned)
    if lacking:
        raise ModelFileError(f"{files.source}: no pinned file matches {', '.join(lacking)}; run `distar models lock`")
    return {name: pin for name, pin in pinned.items() if matches(name, files.patterns + files.optional)}


def lock_sources(needed: Iterable[ModelFiles], pins: Pins, update: bool) -> Pins:
    """Pin every file that is needed, as its source has it now; a pin that there was may change only on `update`.

    Raises:
        ModelFileError: a source is unknown, refuses or has none of the files, or a pin would change.
        StorageError: the disk is full, or a store cannot be reached.
    """
    together: dict[str, ModelFiles] = {}
    for files in needed:
        before = together.get(files.source, ModelFiles(files.source, ()))
        together[files.source] = ModelFiles(
            files.source, before.patterns + files.patterns, before.optional + files.optional
        )
    new = {source: _pin(_open(source), files) for source, files in together.items()}
    changes = [
        f"{source}/{name}: {old['sha256']} ({old['bytes']} bytes) -> {files[name]['sha256']} ({files[name]['bytes']})"
        for source, files in new.items()
        for name, old in pins.get(source, {}).items()
        if name in files and files[name] != old
    ]
    if changes and not update:
        raise ModelFileError(
            "these files are no longer the pinned ones; find out why, and run with --update if the change is meant:\n"
            + "\n".join(changes)
        )
    return new


def _open(text: str) -> Source:
    """Open a source; one that names a branch or a tag is refused with the revision that it stands at."""
    try:
        return open_source(text)
    except ModelFileError:
        at_revision = with_retries(lambda: source_at_revision(text))
        if at_revision is None:
            raise
        raise ModelFileError(
            f"{text} names a branch or a tag, which moves; write the revision where it stands today: {at_revision}"
        ) from None


def _pin(source: Source, files: ModelFiles) -> dict[str, Pin]:
    known = with_retries(lambda: source.files(files.patterns + files.optional))
    lacking = _lacking(files, known)
    if lacking:
        raise ModelFileError(f"{source.url}: no file there matches {', '.join(lacking)}; check the source")

    def hashed(file: Known, work: Work) -> str:
        return file.sha256 or digest(source, file, work)

    to_download = sum(file.num_bytes for file in known.values() if file.sha256 is None)
    hashes = in_parallel(hashed, list(known.values()), f"lock {source.url}", to_download)
    return {
        name: {"sha256": sha256, "bytes": file.num_bytes}
        for (name, file), sha256 in zip(known.items(), hashes, strict=True)
    }


def _lacking(files: ModelFiles, names: Collection[str]) -> list[str]:
    return [pattern for pattern in files.patterns if not any(matches(name, (pattern,)) for name in names)]
