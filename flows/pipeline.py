"""The pipeline as a Prefect flow: one task a DVC stage, in the order of DVC's own graph.

    python -m flows.pipeline

DVC decides what is out of date; Prefect shows, times and retries. No server needs to be set up: without
PREFECT_API_URL Prefect starts a temporary one.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.commands import stream

DVC = (sys.executable, "-m", "dvc")
RETRIES = {"reference": 2, "rewards": 2, "publish": 2}
_EDGE = re.compile(r'^\s*"(?P<before>[^"]+)"\s*->\s*"(?P<after>[^"]+)";?$', re.MULTILINE)


def stages(folder: Path = Path()) -> list[str]:
    """List a project's stages so that each comes after those it depends on, as `dvc dag` tells."""
    names = _dvc_output(folder, "stage", "list", "--name-only").split()
    after: dict[str, set[str]] = {name: set() for name in names}
    for edge in _EDGE.finditer(_dvc_output(folder, "dag", "--dot")):
        after[edge["after"]].add(edge["before"])
    return list(TopologicalSorter(after).static_order())


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(stage: str) -> None:
    """Run one stage with DVC; it does nothing if the stage is up to date."""
    stream([*DVC, "repro", "--single-item", stage], get_run_logger().info)


@task(cache_policy=NO_CACHE)
def show_results() -> None:
    """Attach metrics, sample grid and lineage to the flow run."""
    metrics = json.loads(Path("metrics.json").read_text(encoding="utf-8"))
    receipt = json.loads(Path("outputs/receipt.json").read_text(encoding="utf-8"))
    systems = [name for name, figures in metrics.items() if "rewards" in figures]
    rows = [
        {"figure": name, **{system: f"{metrics[system]['rewards'][name]['mean']:.4f}" for system in systems}}
        for name in metrics[systems[0]]["rewards"]
    ]
    rows += [
        {"figure": name, **{system: f"{metrics[system][name]:.4f}" for system in systems}}
        for name, value in metrics[systems[0]].items()
        if isinstance(value, float)
    ]
    create_table_artifact(key="metrics", table=rows, description="Means on prompts that training never saw")
    picture = base64.b64encode(Path("reports/samples.png").read_bytes()).decode()
    create_image_artifact(
        key="samples", image_url=f"data:image/png;base64,{picture}", description="The same prompts and noise"
    )
    create_markdown_artifact(
        key="release",
        markdown=f"Release `{receipt['release']}` in `{receipt['url']}`; report: `reports/index.html`.",
    )


@flow(name="distar-pipeline", log_prints=True)
def pipeline() -> None:
    """Bring every stage up to date, then check that DVC agrees."""
    for stage in stages():
        run_stage.with_options(retries=RETRIES.get(stage, 0), retry_delay_seconds=10)(stage)
    # --single-item looks at one stage alone, so ask DVC once more about the whole
    stream([*DVC, "status", "--quiet"], get_run_logger().info)
    show_results()


def _dvc_output(folder: Path, *arguments: str) -> str:
    return subprocess.run([*DVC, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    pipeline()
