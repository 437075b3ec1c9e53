"""The record of one stage's run, `runs/STAGE/KEY.json`: what, when, where and with what it ran.

It stands outside DVC's hashed outputs, for it never comes out twice the same. KEY hashes the record's own text: whoever
changes a record shows it, and a later run leaves the record of what is restored from DVC's cache one day.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distar.atomic import written_whole
from distar.errors import StorageError
from distar.git import current_revision, in_repository, run_git
from distar.hashing import pin_file, pin_folder, sha256_of
from distar.launch import ON_MANY_PROCESSES, num_processes, process_index
from distar.lineage.pipeline import DVC_LOCK, Stage, read_stages
from distar.paths import project_folder
from distar.secrets import without_secrets

LOCK_PATH = Path("requirements/lock.txt")
WITHOUT_GIT = "DISTAR_WITHOUT_GIT"
_LIBRARIES = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors", "open-clip-torch",
    "hpsv2", "image-reward", "numpy", "pillow", "dvc", "prefect",
)  # fmt: skip


def runs_dir() -> Path:
    """Where records are kept: `DISTAR_RUNS_DIR`, or `runs` in the project."""
    return project_folder() / os.environ.get("DISTAR_RUNS_DIR", "runs")


@contextmanager
def recorded(name: str) -> Iterator[dict[str, Any]]:
    """Write the record of a stage when its body ends well; the body may add to the yielded dictionary.

    Inputs, outputs and parameters are those that dvc.yaml names. Of several processes of one stage, the first
    alone writes.

    Raises:
        StorageError: the project is in a git repository, but git does not tell the commit, so that nothing could tell
            which code ran; unless `DISTAR_WITHOUT_GIT` is 1.
    """
    extra: dict[str, Any] = {}
    several = name in ON_MANY_PROCESSES
    if several and process_index() != 0:
        yield extra
        return
    stages = read_stages()
    stage = stages[name]
    started, clock = datetime.now(UTC), time.monotonic()
    before = {
        "git": _git_state(ours=_written_by_dvc(stages.values())),
        "parameters": stage.parameter_values(),
        "inputs": digests(stage.inputs),
    }
    yield extra
    seconds, processes = time.monotonic() - clock, num_processes() if several else 1
    outputs = digests(stage.outputs)
    record = {
        "stage": name,
        "started": started.isoformat(timespec="milliseconds"),
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 2),
        "processes": processes,
        "cost_seconds": round(seconds * processes, 2),
        **before,
        "outputs": outputs,
        "flow_run": os.environ.get("DISTAR_FLOW_RUN_ID") or None,
        "environment": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "libraries": {library: version(library) for library in _LIBRARIES},
            "lock": sha256_of(LOCK_PATH) if LOCK_PATH.exists() else None,
        },
        "machine": {"host": platform.node(), "cpu": platform.machine(), "cores": os.cpu_count()},
        "device": None,
        **extra,
    }
    content = (json.dumps(without_secrets(record), indent=2) + "\n").encode()
    with written_whole(runs_dir() / name / f"{key_of(content)}.json") as path:
        path.write_bytes(content)


def digests(places: Iterable[Path]) -> dict[str, dict[str, Any] | None]:
    """Hash files and folders as wholes; None where there is nothing."""
    return {place.as_posix(): _digest(place) for place in places}


def digest_of_pins(pins: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Hash a folder's files (each `{"sha256", "bytes"}`) as a whole, wherever the folder lies."""
    text = json.dumps({name: pin["sha256"] for name, pin in pins.items()}, sort_keys=True)
    size = sum(int(pin["bytes"]) for pin in pins.values())
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": size, "files": len(pins)}


def _digest(place: Path) -> dict[str, Any] | None:
    if place.is_dir():
        return digest_of_pins({k: pin for k, pin in pin_folder(place).items() if "__pycache__" not in Path(k).parts})
    return {**pin_file(place), "files": 1} if place.exists() else None


def key_of(content: bytes) -> str:
    """Return the key of a record's text, by which its file is named."""
    return hashlib.sha256(content).hexdigest()[:16]


def _written_by_dvc(stages: Iterable[Stage]) -> set[Path]:
    """Return what changes by running the pipeline: outputs, and DVC's own notes of them."""
    outputs = {path for stage in stages for path in stage.outputs}
    return {DVC_LOCK, *outputs, *(path.parent / ".gitignore" for path in outputs)}


def _git_state(ours: set[Path]) -> dict[str, Any] | None:
    """Return the commit, what differs from it except what the pipeline itself writes, and where it comes from.

    None stands for an exported tree without git, and for one whose user wants to do without.
    """
    if os.environ.get(WITHOUT_GIT) == "1":
        return None
    try:
        if not in_repository():
            return None
        commit = current_revision()
        below = _git("rev-parse", "--show-prefix").rstrip("\n")  # paths of the status are the repository's
        status = _git("status", "--porcelain", "--untracked-files=all", "--no-renames", "-z", "--", ".")
    except StorageError as error:
        raise StorageError(
            f"{error}\nSo nothing would tell which code made a release. Mend that, or set {WITHOUT_GIT}=1 to run and "
            "publish without"
        ) from error
    paths = sorted(Path(entry[3:]).relative_to(below) for entry in status.split("\0") if entry)
    changed = [path.as_posix() for path in paths if not any(path == own or own in path.parents for own in ours)]
    remote = run_git("remote", "get-url", "origin").stdout.decode().strip()
    return {"commit": commit, "changed": changed, "remote": remote or None}


def _git(*arguments: str) -> str:
    asked = run_git(*arguments)
    if asked.returncode:
        told = asked.stderr.decode(errors="replace").strip()
        raise StorageError(f"`git {' '.join(arguments)}` failed: {told}")
    return asked.stdout.decode(errors="replace")
