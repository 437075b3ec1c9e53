"""A killed `dvc` leaves nothing running behind, and the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from distar import paths
from tests.miniature import edit, run_dvc, with_pipeline

PROFILE = Path("profiles/mini.yaml")


def stage_process(stage: str, folder: Path) -> int | None:
    """Find the process that runs a stage in a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[1:4] == [b"-m", b"distar", stage.encode()] and (process / "cwd").readlink() == folder:
                return int(process.name)
        except OSError:  # it ended meanwhile
            continue
    return None


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_stage_ends_with_the_dvc_that_runs_it(project: Path) -> None:
    with_pipeline(project)
    edit(PROFILE, "evaluate", "reference", "num_steps", value=1000)  # the baseline takes a while
    shell = {"SHELL": "/bin/sh"}  # where it is dash, a shell that stays unless told to `exec`
    environment = {**os.environ, **shell, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "baseline"], env=environment, stdout=subprocess.DEVNULL
    ) as dvc:
        assert wait_for(lambda: any((project / ".distar" / "evaluate").glob("*/initial")), 120)
        assert stage_process("baseline", project) is not None
        dvc.send_signal(signal.SIGKILL)
    assert wait_for(lambda: stage_process("baseline", project) is None, 10)
    assert not paths.BASELINE.exists()
    edit(PROFILE, "evaluate", "reference", "num_steps", value=2)
    run_dvc(project, "repro", "baseline")
    assert paths.BASELINE.is_dir()
