"""What DVC and Prefect add to the stages: the pipeline in several ways, turn by turn, in a clone with little to do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from ruamel.yaml import YAML

from distar.errors import BenchmarkError
from distar.lineage.pipeline import read_stages
from distar.lineage.record import digests
from distar.processes import ending_with_us
from distar.progress import track
from distar.shared_params import PARAMS_PATH, PROFILES_DIR
from distar.worktree import output_of

_DIRECT, _PROCESSES, _DVC, _FLOW, _OWN_SERVER = (
    "direct_one_process",
    "stage_processes",
    "dvc",
    "flow",
    "flow_own_server",
)
_PROFILE = "tiny"
_SECONDS_TO_START = 120.0

# Results stay in the clone, and the stages have little to do: what is measured lies between them.
_SHORTENED = {
    PARAMS_PATH: {
        "profile": _PROFILE,
        "publish": {"url": "file://published", "endpoint_url": None, "signing_key": None},
        "models": {"mirror": None},
    },
    PROFILES_DIR / f"{_PROFILE}.yaml": {
        "runtime": {"num_threads": 1},  # several wait for one another where something else runs
        "prompts": {"evaluation": {"max_prompts": 24}},
        "train": {
            "num_steps": 4,
            "batch_size": 8,
            "micro_batch_size": 8,
            "assistant": {"warmup_steps": 1},
            "monitors": {"num_probe_prompts": 4},
        },
        "evaluate": {"reference": {"num_steps": 4}, "diversity": {"num_prompts": 4}},
    },
}


@dataclass(frozen=True)
class OrchestrationFigures:
    """What a full run of the pipeline costs beside its stages.

    Attributes:
        orchestration_overhead_s: by how many seconds the flow is slower than the stages' commands, one after the other;
            the flow's Prefect server is there before it.
        orchestration_seconds: the median seconds of a run: `direct_one_process`, all stages' functions in one process;
            `stage_processes`, a process each; `dvc`; `flow`; `flow_own_server`, the flow with a temporary server.
    """

    orchestration_overhead_s: float
    orchestration_seconds: dict[str, float]


def measure_orchestration(root: Path, rounds: int) -> OrchestrationFigures:
    """Run the whole pipeline of a project's last commit, with the profile `tiny` shortened, in every way in turn.

    Args:
        root: the project; nothing in it changes.
        rounds: how often each way is taken.

    Raises:
        BenchmarkError: a run failed, or came out different from the others.
        StorageError: git refuses: there is no commit, the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="distar-bench-") as name:
        clone = _Clone(root, Path(name))
        with clone.prefect_server() as api_url:
            measured = _measure(clone, _ways([*read_stages(clone.project)], api_url), rounds)
    return OrchestrationFigures(
        orchestration_overhead_s=median(one[_FLOW] - one[_PROCESSES] for one in measured),
        orchestration_seconds={way: median(one[way] for one in measured) for way in measured[0]},
    )


@dataclass(frozen=True)
class _Way:
    """Commands, one after the other, that run the whole pipeline, and what they find in the environment."""

    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]


def _ways(stages: Sequence[str], api_url: str) -> dict[str, _Way]:
    program = f"from importlib import import_module\nfor s in {stages}: import_module('distar.stages.' + s).run()"
    flow = [[sys.executable, "-m", "flows.pipeline"]]
    return {
        _DIRECT: _Way([[sys.executable, "-c", program]], {}),
        _PROCESSES: _Way([[sys.executable, "-m", "distar", stage] for stage in stages], {}),
        _DVC: _Way([[sys.executable, "-m", "dvc", "repro"]], {}),
        _FLOW: _Way(flow, {"PREFECT_API_URL": api_url}),
        _OWN_SERVER: _Way(flow, {}),
    }


def _measure(clone: _Clone, ways: Mapping[str, _Way], rounds: int) -> list[dict[str, float]]:
    """Take each way once a round and return its seconds; turn by turn, so that other load meets all alike."""
    measured: list[dict[str, float]] = []
    made: dict[str, Any] = {}
    with track("measure orchestration", rounds * len(ways)) as progress:
        for _ in range(rounds):
            seconds = {}
            for name, way in ways.items():
                clone.reset()
                begun = time.perf_counter()
                clone.run(way)
                seconds[name] = time.perf_counter() - begun
                outputs = clone.outputs()
                if outputs != (made := made or outputs):
                    others = ", ".join(place for place in outputs if outputs[place] != made[place])
                    raise BenchmarkError(
                        f"{others} came out of `{name}` different from the first run's, so its time says nothing; see "
                        "whether all stages give the same twice: `distar audit reproduce latest`"
                    )
                progress.advance(note=name)
            measured.append(seconds)
    return measured


class _Clone:
    """A clone of a project, with a DVC cache and a Prefect of its own: what the user has set for them is not heeded."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.project = folder / "project"
        self._dvc, self._prefect = folder / "dvc", folder / "prefect"
        self._prefect.mkdir()
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DISTAR_", "DVC_", "PREFECT_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(self._dvc / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self._dvc / "system"),
            "DVC_SITE_CACHE_DIR": str(self._dvc / "site"),
            "PREFECT_HOME": str(self._prefect),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        output_of(["git", "clone", "--quiet", str(root.absolute()), str(self.project)])
        self.reset()
        self.run(_Way([[sys.executable, "-m", "compileall", "-q", "distar", "flows"]], {}))

    def reset(self) -> None:
        """Bring the project to where nothing has run yet; the modules' bytecode stays."""
        output_of(["git", "checkout", "--quiet", "--", "."], self.project)
        output_of(["git", "clean", "-ffdxq", "--exclude=__pycache__"], self.project)
        shutil.rmtree(self._dvc, ignore_errors=True)
        (self.project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {self._dvc / 'cache'}\n", "utf-8")
        for path, changes in _SHORTENED.items():
            yaml = YAML()
            document = yaml.load(self.project / path)
            _change(document, changes)
            yaml.dump(document, self.project / path)

    def run(self, way: _Way) -> None:
        """Run commands in the project.

        Raises:
            BenchmarkError: one failed; the message holds what it said last.
        """
        for command in way.commands:
            done = subprocess.run(
                ending_with_us(command),
                cwd=self.project,
                env={**self._environment, **way.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BenchmarkError(
                    f"`{' '.join(command)}` ended with status {done.returncode} in a clone of the last commit; commit "
                    "what mends it, and measure again. It said last:\n" + "\n".join(done.stdout.splitlines()[-20:])
                )

    def outputs(self) -> dict[str, Any]:
        """Hash what the pipeline has made, by its places."""
        stages = read_stages(self.project)
        return digests(self.project / path for stage in stages.values() for path in stage.outputs)

    @contextmanager
    def prefect_server(self) -> Iterator[str]:
        """Have a Prefect server, and yield its API's URL once it answers.

        Raises:
            BenchmarkError: it did not start.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url, log = f"http://127.0.0.1:{port}/api", self._prefect / "server.log"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as file:
            server = subprocess.Popen(
                ending_with_us([*command, "--no-ui"]),
                env={**self._environment, "PREFECT_HOME": str(self._prefect / "server")},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _SECONDS_TO_START
            while not _answers(url):
                if server.poll() is not None or time.monotonic() > deadline:
                    told = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
                    raise BenchmarkError("Prefect's server did not start; it said last:\n" + "\n".join(told))
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _change(document: Any, changes: Mapping[str, Any]) -> None:
    """Set the values of a document that stand at the same places in `changes`."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            _change(document[key], value)
        else:
            document[key] = value


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5):  # noqa: S310  our own server's
            return True
    except OSError:
        return False
