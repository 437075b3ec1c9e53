"""Mirrors: a store of one's own with every pinned file as `sha256/HASH`, for machines without a network."""

from __future__ import annotations

from distar.disk import refusal_told
from distar.fetching.downloads import Wanted, mirrored_name, obtain
from distar.fetching.lock import Pins
from distar.fetching.parallel import Work, in_parallel
from distar.fetching.source import FileMissingError
from distar.fetching.sources import open_mirror, open_source
from distar.hashing import check_file


def fill_mirror(pins: Pins, url: str) -> int:
    """Copy every pinned file that the mirror lacks into it; return how many those were.

    Raises:
        ModelFileError: a file cannot be had, or is not the pinned one.
        StorageError: the mirror, or another store, cannot be reached or refuses; or the disk is full.
    """
    mirror = open_mirror(url)
    try:
        present = {name: known.num_bytes for name, known in mirror.files(("sha256/*",)).items()}
    except FileMissingError:
        present = {}
    wanted = {
        str(pin["sha256"]): Wanted(open_source(source), name, pin)
        for source, files in pins.items()
        for name, pin in files.items()
        if present.get(mirrored_name(str(pin["sha256"]))) != pin["bytes"]
    }

    def copy(file: Wanted, work: Work) -> None:
        path = obtain(file, work)
        with refusal_told(path, "check who may read it"):
            check_file(path, file.pin, file.shown_as)
        mirror.put(path, mirrored_name(file.sha256), file.pin)

    in_parallel(copy, list(wanted.values()), f"mirror to {url}", sum(file.num_bytes for file in wanted.values()))
    return len(wanted)
