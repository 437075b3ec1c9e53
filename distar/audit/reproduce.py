"""`distar audit reproduce`: make a release again, from its commit alone, and compare."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distar import paths
from distar.audit.evidence import Evidence
from distar.audit.origin import find_origin
from distar.audit.page import Facts, Note, Page, Rows, Status
from distar.audit.repository import Repository
from distar.errors import ReleaseError
from distar.evaluation.summary import read_released_metrics
from distar.fetching.downloads import downloads_dir
from distar.git import environment as for_children
from distar.processes import ending_with_us
from distar.release.package import MANIFEST
from distar.release.releases import parse_manifest
from distar.worktree import DVC, worktree

STANDARD_ERRORS = 3.0
"""How far the means of rewards may lie apart on another class of device, in standard errors of their difference."""
RELATIVE = 0.1
"""How far other figures may lie apart there, as a share of the release's."""


@dataclass(frozen=True)
class Compared:
    """A figure of the release and of its reproduction; `allowed` is how far they may lie apart."""

    name: str
    release: float
    reproduction: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the two are as near as is allowed."""
        return abs(self.release - self.reproduction) <= self.allowed


@dataclass(frozen=True)
class Reproduced:
    """What came out; bit by bit it must be the release's where device and environment are of the same class."""

    release: str
    reproduction: str
    commit: str
    device: str | None
    reproduction_device: str | None
    environment: list[str]
    """What differs in the environment."""
    files: list[str]
    """Files that differ."""
    metrics: list[Compared]
    agrees: bool

    @property
    def bitwise(self) -> bool:
        """Whether the reproduction had to be the same bit by bit."""
        return self.device == self.reproduction_device and not self.environment


def reproduce(evidence: Evidence, repository: Repository) -> Reproduced:
    """Run every stage up to `package` again in a worktree of the release's commit, and compare what comes out.

    Nothing is taken from DVC's cache of runs or from checkpoints. The environment is the one that this runs in.

    Raises:
        ReleaseError: no commit here holds all that the release was made from, or a stage failed.
    """
    origin = find_origin(evidence.stated, repository)
    if origin.commit is None or origin.differences:
        differing = ", ".join(one.what for one in origin.differences[:5]) or "its commits are not here"
        raise ReleaseError(
            f"release {evidence.release} cannot be reproduced: no commit here holds what made it ({differing}); "
            "`distar audit verify` tells all of it"
        )
    with worktree(origin.commit) as folder:
        _repro(folder)
        release = folder / paths.RELEASE
        content = (release / MANIFEST).read_bytes()
        files = parse_manifest(content, str(release / MANIFEST))
        device = _device(_newest_record(folder / "runs" / "train"))
        theirs = read_released_metrics(evidence.read(paths.METRICS.name), f"{paths.METRICS.name} of {evidence.release}")
        ours = read_released_metrics((release / paths.METRICS.name).read_bytes(), str(paths.METRICS))
        metrics = list(_compared(theirs["generator"], ours["generator"]))
    runs = {run["stage"]: run for run in evidence.stated.runs}
    got, original = hashlib.sha256(content).hexdigest(), _device(runs.get("train"))
    environment = list(_environment_differences(runs))
    bitwise = device == original and not environment
    return Reproduced(
        release=evidence.release,
        reproduction=got,
        commit=origin.commit,
        device=original,
        reproduction_device=device,
        environment=environment,
        files=[
            name for name in sorted(files.keys() | evidence.files.keys()) if files.get(name) != evidence.files.get(name)
        ],
        metrics=metrics,
        agrees=got == evidence.release or (not bitwise and all(one.agrees for one in metrics)),
    )


def page_of(reproduced: Reproduced) -> Page:
    """Lay out what came out."""
    if reproduced.reproduction == reproduced.release:
        lead = "The same release, bit by bit."
    elif reproduced.bitwise:
        lead = f"It differs, on the same class of device: {', '.join(reproduced.files)}."
    else:
        lead = "Other bits, as device or environment are others; " + (
            "all figures agree within their tolerance." if reproduced.agrees else "and figures lie too far apart."
        )
    statuses: list[Status] = ["good" if one.agrees else "bad" for one in reproduced.metrics]
    rows = [
        (one.name, f"{one.release:.4f}", f"{one.reproduction:.4f}", f"{one.allowed:.4f}") for one in reproduced.metrics
    ]
    return Page(
        f"Release {reproduced.release[:16]}, made again",
        lead,
        [
            Facts(
                "Runs",
                {
                    "release": reproduced.release,
                    "commit": reproduced.commit,
                    "reproduction": reproduced.reproduction,
                    "device": f"{reproduced.device}; now {reproduced.reproduction_device}",
                    "environment": "; ".join(reproduced.environment) or "the same libraries",
                },
            ),
            Rows("Figures", ("figure", "release", "reproduction", "may differ by"), rows, statuses),
            Note(
                f"On another class of device, means of rewards may lie {STANDARD_ERRORS:g} standard errors of their "
                f"difference apart, other figures {RELATIVE:.0%} of the release's."
            ),
        ],
    )


def _repro(folder: Path) -> None:
    """Run the stages, whatever DVC's cache of runs holds; what they print goes to this process's stderr."""
    environment = {
        name: value
        for name, value in for_children(folder).items()
        if name not in {"DISTAR_WORK_DIR", "DISTAR_RUNS_DIR"}
    }
    environment |= {
        "DISTAR_DOWNLOADS": str(downloads_dir().absolute()),  # checked by their hashes wherever they were
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [*DVC, "repro", "--force", "--no-run-cache", "package"]
    stderr = 2  # a file descriptor: stdout is for what is found
    status = subprocess.run(ending_with_us(command), cwd=folder, env=environment, stdout=stderr, check=False).returncode
    if status:
        raise ReleaseError(
            f"`dvc repro package` ended with status {status} in the release's commit; see what it printed"
        )


def _environment_differences(runs: dict[str, Any]) -> Iterator[str]:
    libraries = runs["train"]["environment"]["libraries"] if "train" in runs else {}
    for name, then in libraries.items():
        try:
            now = version(name)
        except PackageNotFoundError:
            now = "not installed"
        if now != then:
            yield f"{name} {then}, now {now}"


def _device(run: dict[str, Any] | None) -> str | None:
    return run["device"]["class"] if run else None


def _newest_record(folder: Path) -> dict[str, Any]:
    return max(
        (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")), key=lambda r: r["ended"]
    )


def _compared(release: dict[str, Any], reproduction: dict[str, Any]) -> Iterator[Compared]:
    """Compare the figures that both have; one that either lacks is not a number, which agrees with nothing."""
    for name, mine in release["rewards"].items():
        other = reproduction["rewards"].get(name, {"mean": math.nan})
        spread = math.hypot(mine.get("sem") or 0.0, other.get("sem") or 0.0)
        yield Compared(f"reward: {name}", mine["mean"], other["mean"], STANDARD_ERRORS * spread)
    for name, value in release.items():
        if isinstance(value, float):
            other = reproduction.get(name)
            shown = other if isinstance(other, float) else math.nan
            yield Compared(name.replace("_", " "), value, shown, RELATIVE * abs(value))
