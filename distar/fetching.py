"""Fetch model folders from where they live and check every file against its pinned sha256.

A source is `file://folder` (relative to the project) or `hf://owner/name@revision[/subfolder]`. The pins stand
in a lock file beside the profile, `profiles/NAME.lock.json`:

    {"SOURCE": {"path/in/folder": {"sha256": "…", "bytes": 123}, …}, …}
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from distar.atomic import written_whole
from distar.errors import ModelFileError
from distar.hashing import check_file
from distar.progress import track

Pins = dict[str, dict[str, dict[str, str | int]]]

_HUB_SOURCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)@(?P<revision>[0-9a-f]{40})(?:/(?P<subfolder>.+))?")


def read_pins(path: Path) -> Pins:
    """Read a profile's lock file.

    Raises:
        ModelFileError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"the lock file {path} does not exist; it pins the sha256 of every model file") from None
    except json.JSONDecodeError as error:
        raise ModelFileError(f"the lock file {path} is not JSON ({error}); restore it from git") from error


def fetch(source: str, pins: Pins, folder: Path) -> None:
    """Fetch a model folder: every pinned file, checked, and nothing else; the folder appears whole or not at all.

    Raises:
        ModelFileError: the source is unknown or unpinned, or a file is missing, truncated or altered.
        StorageError: the disk is full.
    """
    if source not in pins:
        raise ModelFileError(f"{source} is not pinned; the lock file has {', '.join(pins) or 'nothing'}")
    with written_whole(folder) as partial, track(f"fetch {source}", len(pins[source])) as progress:
        for name, pin in pins[source].items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, name, target)
            check_file(target, pin, shown_as=f"{source}/{name}")
            progress.advance(note=name)


def _copy(source: str, name: str, target: Path) -> None:
    if source.startswith("file://"):
        origin = Path(source.removeprefix("file://"))
        origin = origin / name if origin.is_dir() else origin
        if not origin.is_file():
            raise ModelFileError(f"{source}/{name} is pinned, but the file does not exist; restore it (git checkout)")
        shutil.copyfile(origin, target)
        return
    match = _HUB_SOURCE.fullmatch(source)
    if match is None:
        raise ModelFileError(
            f"the source {source!r} is not understood; expected file://folder or hf://owner/name@REVISION[/subfolder], "
            "REVISION being 40 hexadecimal digits"
        )
    from huggingface_hub import hf_hub_download

    subfolder = f"{match['subfolder']}/" if match["subfolder"] else ""
    cached = hf_hub_download(match["repo"], f"{subfolder}{name}", revision=match["revision"])
    shutil.copyfile(cached, target)
