"""`distar models`: pin the files of a profile's models, check what was fetched, fill a mirror."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal as bytes_text
from rich.table import Table

from distar import paths
from distar.errors import ModelFileError, ParameterError
from distar.fetching import fill_mirror, lock_sources, pins_of, read_pins, write_pins
from distar.hashing import sha256_of
from distar.params import load_params, lock_path, profile_files


@dataclass(frozen=True)
class Difference:
    """A fetched file that is not as it is pinned; sizes and hashes as texts."""

    path: str
    problem: str
    expected: str | None
    got: str | None


@dataclass(frozen=True)
class Verified:
    """What a check of the fetched files found."""

    profile: str
    num_files: int
    num_bytes: int
    differences: list[Difference]


def lock(profile: str | None, update: bool) -> None:
    """Write the lock file of a profile; a pin that would change is refused unless `update`.

    Raises:
        DistarError: as `distar.fetching.lock_sources`.
    """
    params = load_params(profile=profile)
    path = lock_path(params.root.profile)
    pins = lock_sources(profile_files(params.profile).values(), read_pins(path) if path.exists() else {}, update)
    write_pins(pins, path)
    files = [pin for source in pins.values() for pin in source.values()]
    size = bytes_text(sum(int(pin["bytes"]) for pin in files))
    Console().print(f"{path}: {len(files)} files of {len(pins)} sources, {size}", highlight=False)


def verify(profile: str | None) -> Verified:
    """Hash every file under outputs/reference and outputs/rewards and compare it with its pin.

    Raises:
        ModelFileError: nothing was fetched yet, or the lock file lacks a source.
    """
    params = load_params(profile=profile)
    pins = read_pins(lock_path(params.root.profile))
    roots = [root for root in (paths.REFERENCE.parent, paths.REWARDS, paths.FID) if root.exists()]
    present = sorted(path for root in roots for path in root.rglob("*") if path.is_file() and path != paths.FID_SOURCES)
    if not present:
        raise ModelFileError("nothing is fetched yet, so there is nothing to verify; run `dvc repro reference rewards`")
    expected = {
        folder / name: pin
        for folder, files in profile_files(params.profile).items()
        if any(folder.is_relative_to(root) for root in roots)
        for name, pin in pins_of(files, pins).items()
    }
    missing = sorted(expected.keys() - present)
    differences = [Difference(str(path), "missing", str(expected[path]["sha256"]), None) for path in missing]
    for path in present:
        if path not in expected:
            differences.append(Difference(str(path), "not pinned", None, None))
        elif (size := path.stat().st_size) != expected[path]["bytes"]:
            differences.append(Difference(str(path), "size", f"{expected[path]['bytes']} bytes", f"{size} bytes"))
        elif (sha256 := sha256_of(path)) != expected[path]["sha256"]:
            differences.append(Difference(str(path), "content", str(expected[path]["sha256"]), sha256))
    return Verified(params.root.profile, len(present), sum(path.stat().st_size for path in present), differences)


def table(verified: Verified) -> RenderableType:
    """Show what a check found."""
    summary = f"{verified.num_files} files, {bytes_text(verified.num_bytes)}, profile {verified.profile}: "
    if not verified.differences:
        return summary + "all as pinned"
    rows = Table("file", "problem", "pinned", "found")
    for difference in verified.differences:
        rows.add_row(difference.path, difference.problem, difference.expected or "-", difference.got or "-")
    remedy = "Fetch them again with `dvc repro -f reference rewards`."
    return Group(rows, f"{summary}{len(verified.differences)} not as pinned. {remedy}")


def mirror(profile: str | None) -> None:
    """Copy every pinned file of a profile that the mirror lacks into it.

    Raises:
        ParameterError: params.yaml names no mirror.
        DistarError: as `distar.fetching.fill_mirror`.
    """
    params = load_params(profile=profile)
    url = params.root.models.mirror
    if url is None:
        raise ParameterError("params.yaml: models.mirror is null; set it to s3://bucket/path or file://folder")
    copied = fill_mirror(read_pins(lock_path(params.root.profile)), url)
    Console().print(f"{url}: {copied} files copied; every file of the lock is there", highlight=False)
