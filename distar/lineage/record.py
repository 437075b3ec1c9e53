"""The record of one stage's run, `runs/STAGE.json`: when, where and with what it ran.

It stands outside DVC's hashed outputs, for it never comes out twice the same.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from distar.atomic import written_whole

RUNS_DIR = Path("runs")
LOCK_PATH = Path("requirements/lock.txt")
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "dvc")


@contextmanager
def recorded(stage: str) -> Iterator[dict[str, object]]:
    """Write the record of a stage when its body ends well; the body may add to the yielded dictionary.

    Of several processes of one stage, the first alone writes.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    extra: dict[str, object] = {}
    yield extra
    if os.environ.get("RANK", "0") != "0":
        return
    record = {
        "stage": stage,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 2),
        "git": _git_state(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "machine": {"system": platform.platform(), "cpu": platform.machine(), "cores": os.cpu_count()},
        **extra,
    }
    with written_whole(RUNS_DIR / f"{stage}.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _git_state() -> dict[str, object] | None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None  # an exported tree without git: the record says so by holding null
