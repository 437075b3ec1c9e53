"""The sha256 of files and folders, and the check of a file against its pin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from distar.errors import ModelFileError


def check_file(path: Path, pin: dict[str, str | int], shown_as: str) -> None:
    """Compare a file's size and sha256 with its pin.

    Raises:
        ModelFileError: naming the file, what was expected and what was got.
    """
    size, expected_size = path.stat().st_size, pin["bytes"]
    if size != expected_size:
        raise ModelFileError(
            f"{shown_as}: expected {expected_size} bytes, got {size}: the file is "
            f"{'truncated' if size < int(expected_size) else 'not the pinned one'}; restore or fetch it again"
        )
    got = sha256_of(path)
    if got != pin["sha256"]:
        raise ModelFileError(
            f"{shown_as}: expected sha256 {pin['sha256']}, got {got}; restore the file, or pin the new one "
            "in the profile's lock file if the change is meant"
        )


def sha256_of(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(values: object, inputs: Iterable[Path]) -> str:
    """Hash values that JSON can hold, and the content of files and of all files in folders."""
    pins = {str(path): pin_folder(path) if path.is_dir() else sha256_of(path) for path in inputs}
    return hashlib.sha256(json.dumps([values, pins], sort_keys=True).encode()).hexdigest()


def hashes_of_code(*parts: str) -> dict[str, str]:
    """Hash the package's own modules, those in `parts` (files and folders of it) or all."""
    package = Path(__file__).parent
    modules = (path for part in parts or (".",) for path in [package / part, *(package / part).rglob("*.py")])
    return {path.relative_to(package).as_posix(): sha256_of(path) for path in sorted(set(modules)) if path.is_file()}


def pin_folder(folder: Path) -> dict[str, dict[str, str | int]]:
    """Pin every file of a folder, in a fixed order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): pin_file(path) for path in files}


def pin_file(path: Path) -> dict[str, str | int]:
    """Pin a file's content."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}
