"""What DVC and Prefect add to the stages: the pipeline in several ways, turn by turn, in a clone.

There stages put in place what they made before: their own seconds differ from run to run by more than DVC and Prefect
take.
"""

from __future__ import annotations

import os
import secrets
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
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

from ruamel.yaml import YAML

from distar.errors import BenchmarkError
from distar.git import environment
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

# Results stay in the clone, and the stages have little to do.
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


# Stands in for `python -m distar STAGE`.
_STAND_IN = """
import shutil, sys
from pathlib import Path

made = Path({made!r})
for output in {outputs!r}[sys.argv[1]]:
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if (made / output).is_dir() else shutil.copyfile)(made / output, output)
"""


@dataclass(frozen=True)
class OrchestrationFigures:
    """What a full run of the pipeline costs beside its stages.

    Attributes:
        orchestration_overhead_s: by how many seconds the flow is slower than the stages' commands, one after the other;
            the flow's Prefect server is there before it.
        orchestration_seconds: the median seconds of a run whose stages put in place what they made before:
            `stage_processes`, their commands alone; `dvc`; `flow`; `flow_own_server`, the flow with a temporary server.
        pipeline_seconds: those of a run whose stages make it, without DVC and Prefect: `direct_one_process`, all
            functions of stages in one process; `stage_processes`, a process each.
    """

    orchestration_overhead_s: float
    orchestration_seconds: dict[str, float]
    pipeline_seconds: dict[str, float]


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
        with clone.prefect_server() as api_url, track("measure orchestration", rounds) as progress:
            stages, with_dvc = _ways([*read_stages(clone.project)], api_url)
            whole = _measure(clone, stages)
            clone.put_in_place_what_was_made()
            measured = []
            for _ in range(rounds):
                measured.append(_measure(clone, {_PROCESSES: stages[_PROCESSES], **with_dvc}))
                progress.advance()
    return OrchestrationFigures(
        orchestration_overhead_s=median(one[_FLOW] - one[_PROCESSES] for one in measured),
        orchestration_seconds={way: median(one[way] for one in measured) for way in measured[0]},
        pipeline_seconds=whole,
    )


@dataclass(frozen=True)
class _Way:
    """Commands, one after the other, that run the whole pipeline, and what they find in the environment."""

    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]


def _ways(stages: Sequence[str], api_url: str) -> tuple[dict[str, _Way], dict[str, _Way]]:
    """Return the ways to run the pipeline without DVC, and those with it."""
    program = f"from importlib import import_module\nfor s in {stages}: import_module('distar.stages.' + s).run()"
    flow = [[sys.executable, "-m", "flows.pipeline"]]
    return {
        _DIRECT: _Way([[sys.executable, "-c", program]], {}),
        _PROCESSES: _Way([[sys.executable, "-m", "distar", stage] for stage in stages], {}),
    }, {
        _DVC: _Way([[sys.executable, "-m", "dvc", "repro"]], {}),
        _FLOW: _Way(flow, {"PREFECT_API_URL": api_url}),
        _OWN_SERVER: _Way(flow, {}),
    }


def _measure(clone: _Clone, ways: Mapping[str, _Way]) -> dict[str, float]:
    """Take each way once and return its seconds; turn by turn, so that other load meets all alike.

    Raises:
        BenchmarkError: a run failed, or made something else than the first ever.
    """
    seconds = {}
    for name, way in ways.items():
        clone.reset()
        begun = time.perf_counter()
        clone.run(way)
        seconds[name] = time.perf_counter() - begun
        clone.check_outputs(name)
    return seconds


class _Clone:
    """A clone of a project, with a DVC cache and a Prefect of its own: what the user has set for them is not heeded."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.project = folder / "project"
        self._dvc, self._prefect, self._made = folder / "dvc", folder / "prefect", folder / "made"
        self._digests: dict[str, Any] | None = None
        self._stand_in: str | None = None
        self._prefect.mkdir()
        auth_string = f"distar:{secrets.token_hex(16)}"  # or any web page could talk to the server
        self._environment = {
            **{
                key: value
                for key, value in environment().items()
                if not key.startswith(("DISTAR_", "DVC_", "PREFECT_"))
            },
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(self._dvc / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self._dvc / "system"),
            "DVC_SITE_CACHE_DIR": str(self._dvc / "site"),
            "PREFECT_HOME": str(self._prefect),
            "PREFECT_API_AUTH_STRING": auth_string,
            "PREFECT_SERVER_API_AUTH_STRING": auth_string,
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
        if self._stand_in is not None:
            (self.project / "distar" / "__main__.py").write_text(self._stand_in, encoding="utf-8")

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

    def check_outputs(self, way: str) -> None:
        """Compare what the pipeline has made with what it made first.

        Raises:
            BenchmarkError: it is different.
        """
        stages = read_stages(self.project)
        found = digests(self.project / path for stage in stages.values() for path in stage.outputs)
        self._digests = self._digests or found
        if others := ", ".join(place for place in found if found[place] != self._digests[place]):
            raise BenchmarkError(
                f"{others} came out of `{way}` different from the first run's, so its time says nothing; see "
                "whether all stages give the same twice: `distar audit reproduce latest`"
            )

    def put_in_place_what_was_made(self) -> None:
        """Keep what the pipeline has made; from the next reset on its stages put it in place, and do nothing else."""
        outputs = {name: [str(path) for path in stage.outputs] for name, stage in read_stages(self.project).items()}
        for path in chain.from_iterable(outputs.values()):
            (self._made / path).parent.mkdir(parents=True, exist_ok=True)
            (self.project / path).rename(self._made / path)
        self._stand_in = _STAND_IN.format(made=str(self._made), outputs=outputs)

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
