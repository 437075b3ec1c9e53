"""Fetch model files from where they live, each checked against its pinned sha256.

A source names a folder, or one file (then it is a folder that holds that file under its own name):

    file://path                                     relative to the project
    hf://owner/name@REVISION[/path]                 a model of the hub; REVISION is 40 hexadecimal digits
    hf://datasets/owner/name@REVISION[/path]        a data set of the hub
    s3://bucket/path                                an S3 store (AWS_ENDPOINT_URL and the usual credentials)

What is downloaded goes through a folder of files named by their sha256 (`DISTAR_DOWNLOADS`, or `.distar/downloads`),
where an interrupted download is continued.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from distar.atomic import written_whole
from distar.disk import refusal_told
from distar.errors import ModelFileError
from distar.fetching.downloads import Wanted, bytes_of_partials, obtain
from distar.fetching.lock import Pins, lock_sources, pins_of, read_pins, write_pins
from distar.fetching.mirror import fill_mirror
from distar.fetching.parallel import Work, in_parallel
from distar.fetching.sources import open_mirror, open_source
from distar.hashing import check_file
from distar.model_files import ModelFiles

__all__ = ["Pins", "fetch", "fill_mirror", "lock_sources", "pins_of", "read_pins", "write_pins"]


def fetch(files: ModelFiles, pins: Pins, folder: Path, mirror: str | None = None) -> None:
    """Fetch the pinned files that match, each checked, and nothing else; the folder appears whole or not at all.

    Files are taken from the mirror if it has them. With HF_HUB_OFFLINE set, the hub is not asked.

    Raises:
        ModelFileError: the source is unknown, unpinned or refuses, or a file is missing, truncated or altered.
        StorageError: the disk is full, or a store cannot be reached; what was downloaded is kept for the next run.
    """
    needed, source = pins_of(files, pins), open_source(files.source)
    mirrored = open_mirror(mirror) if mirror else None
    wanted = [Wanted(source, name, pin, mirrored) for name, pin in needed.items()]
    for file in wanted:
        if Path(file.name).is_absolute() or ".." in Path(file.name).parts:
            raise ModelFileError(f"{file.shown_as} would be written outside its folder; correct the lock file")

    def place(file: Wanted, work: Work) -> None:
        target = partial / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path = obtain(file, work)
        with refusal_told(path, "check who may read it"):
            shutil.copyfile(path, target)
        check_file(target, file.pin, file.shown_as)

    with written_whole(folder) as partial:
        total = sum(file.num_bytes for file in wanted)
        in_parallel(place, wanted, f"fetch {files.source}", total, bytes_of_partials(wanted))
