"""Open the source that a text names."""

from __future__ import annotations

from distar.errors import ModelFileError
from distar.fetching.hub import HubRepository
from distar.fetching.local import LocalFolder
from distar.fetching.s3 import S3Folder
from distar.fetching.source import Source
from distar.paths import project_folder


def open_source(text: str) -> Source:
    """Open a source; nothing is asked of it yet.

    Raises:
        ModelFileError: the text is not understood.
    """
    source = HubRepository.parse(text) or S3Folder.parse(text) or LocalFolder.parse(text)
    if source is None:
        raise ModelFileError(
            f"the source {text!r} is not understood; expected file://path, s3://bucket/path, "
            "hf://owner/name@REVISION[/path] or hf://datasets/owner/name@REVISION[/path], "
            "REVISION being 40 hexadecimal digits"
        )
    return source


def open_mirror(url: str) -> LocalFolder | S3Folder:
    """Open a store that can be written to; a folder is relative to the project.

    Raises:
        ModelFileError: the text is not understood.
    """
    mirror = S3Folder.parse(url) or LocalFolder.parse(url, project_folder())
    if mirror is None:
        raise ModelFileError(f"models.mirror: got {url!r}; expected s3://bucket/path or file://folder")
    return mirror
