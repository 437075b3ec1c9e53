"""Sources in an S3 store, `s3://bucket/path`; credentials and AWS_ENDPOINT_URL come from the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distar.errors import ModelFileError
from distar.fetching.bucket import Bucket, ChangedFileError
from distar.fetching.source import Known, Pin, Reading, below, possible_places

_SOURCE = re.compile(r"s3://(?P<bucket>[^/\x00-\x1f]+)(?:/(?P<root>[^\x00-\x1f]*[^/\x00-\x1f]))?/?")


@dataclass(frozen=True)
class S3Folder:
    """A bucket, or a folder or file of it."""

    url: str
    bucket: str
    root: str

    @classmethod
    def parse(cls, text: str) -> S3Folder | None:
        """Understand `s3://bucket/path`, or return None."""
        match = _SOURCE.fullmatch(text)
        return cls(text, match["bucket"], match["root"] or "") if match else None

    def files(self, patterns: tuple[str, ...]) -> dict[str, Known]:
        """Return the files that match; S3 knows no sha256 of whole files."""
        paths = {
            key: Known(key, size, None)
            for key, size in self._opened.sizes(self.root).items()
            if not key.endswith("/")  # markers that some tools leave for folders
        }
        return below(self.root, paths, patterns, self.url)

    def places(self, name: str) -> list[str]:
        """Return where the file may lie."""
        return possible_places(self.root, name)

    def at_hand(self, place: str, pin: Pin) -> Path | None:
        """Return None: nothing of S3 is on this machine."""
        return None

    @contextmanager
    def read(self, place: str, start: int) -> Iterator[Reading]:
        """Open a file at byte `start`."""
        with self._opened.opened(place, start) as (about, chunks):
            begins = start if "ContentRange" in about else 0
            length = about.get("ContentLength")
            yield Reading(
                begins,
                None if length is None else begins + length,
                about.get("ContentType", "of unknown type"),
                chunks,
            )

    def put(self, path: Path, name: str, pin: Pin) -> None:
        """Store a file; it appears whole or not at all."""
        try:
            self._opened.send(path, f"{self.root}/{name}" if self.root else name, pin, lambda _: None)
        except ChangedFileError:
            raise ModelFileError(f"{path} was changed while it was sent to {self.url}; run again") from None

    @cached_property
    def _opened(self) -> Bucket:
        return Bucket(self.bucket)
