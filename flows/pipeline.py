"""The pipeline as a Prefect flow: one task a DVC stage, in the order of DVC's own graph.

    python -m flows.pipeline
    python -m flows.pipeline --from evaluate
    python -m flows.pipeline --set train.reward_scale=0.5 --dry-run

DVC decides what is out of date; Prefect shows, times and retries. No server needs to be set up: without
PREFECT_API_URL a temporary one is started.

With --set the last commit is run in a git worktree of its own, up to the release, which is not published: the
workspace is not touched, and what came out stays in DVC's cache. `python -m flows.retrain` publishes such a change.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from contextvars import ContextVar
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from typing_extensions import TypedDict

from distar import paths
from distar.commands.arguments import Parser
from distar.documents import content_of, read_json, validated
from distar.dvc import WAITS
from distar.errors import DistarError, ParameterError
from distar.evaluation.summary import read_metrics
from distar.fetching.downloads import downloads_dir
from distar.git import current_revision, run_git
from distar.lineage.pipeline import DVC_YAML, read_stages
from distar.release.releases import read_alias
from distar.release.storage import Store, open_store
from distar.secrets import print_exception
from distar.shared_params import load_shared
from distar.worktree import DVC, output_of, worktree
from flows.changes import add_set_option, changed_parameters
from flows.commands import Command, CommandError, stream
from flows.events import check_server
from flows.exit_status import exit_status
from flows.gpu import the_gpu

CHAMPION = "champion"
PUBLISH = "publish"
_RETRIES = {"reference": 2, "rewards": 2, PUBLISH: 2}

_WORKSPACE = Path()


class Receipt(TypedDict):
    """What the stage `publish` leaves: the release, and its store."""

    release: str
    url: str


def read_receipt(path: Path) -> Receipt:
    """Read what the stage `publish` left.

    Raises:
        ParameterError: there is none, or it is damaged.
    """
    content = read_json(content_of(path, ParameterError, "run `dvc repro publish`"), str(path), ParameterError)
    return validated(Receipt, content, str(path), ParameterError)


def dependencies(folder: Path = _WORKSPACE) -> dict[str, set[str]]:
    """Return the stages that each stage of a project depends on: those whose outputs it reads, as `dvc dag` tells.

    Raises:
        ParameterError: the folder holds no project.
    """
    found = read_stages(folder)
    makers = {output: name for name, stage in found.items() for output in stage.outputs}
    makers_within: dict[Path, set[str]] = {}
    for output, name in makers.items():
        for place in (output, *output.parents):
            makers_within.setdefault(place, set()).add(name)
    return {
        name: {maker for read in stage.inputs for maker in makers_within.get(read, ())}
        | {makers[place] for read in stage.inputs for place in read.parents if place in makers}
        for name, stage in found.items()
    }


def stages(folder: Path = _WORKSPACE) -> list[str]:
    """List a project's stages so that each comes after those that it depends on."""
    return list(TopologicalSorter(dependencies(folder)).static_order())


def chosen_stages(first: str | None, only: str | None, changes: Mapping[str, Any] | None) -> list[str]:
    """List the stages that are asked for: `first` and what depends on it, `only` one, or all; in their order.

    Raises:
        ParameterError: there is no such stage or parameter, or nothing is left to run.
    """
    if changes:
        changed_parameters(current_revision(), changes)
    needed = dependencies()
    order = list(TopologicalSorter(needed).static_order())
    if first is not None and only is not None:
        raise ParameterError(f"got --from {first} and --only {only}, expected one of the two")
    for option, stage in (("--from", first), ("--only", only)):
        if stage is not None and stage not in order:
            raise ParameterError(f"{option}: there is no stage {stage!r}; dvc.yaml has {', '.join(order)}")
    if only is not None:
        order = [only]
    elif first is not None:
        order = _downstream(first, order, needed)
    if changes and order == [PUBLISH]:
        raise ParameterError("--set publishes nothing; run `python -m flows.retrain` with the same --set")
    return [stage for stage in order if not (changes and stage == PUBLISH)]


@contextmanager
def project(changes: Mapping[str, Any] | None) -> Iterator[Path]:
    """Yield the workspace, or a worktree of its last commit, as far as DVC has its outputs, with changed parameters.

    Raises:
        ParameterError: there is no such parameter or profile.
    """
    if not changes:
        yield _WORKSPACE
        return
    commit = current_revision()
    changed = changed_parameters(commit, changes)
    with worktree(commit) as folder:
        output_of([*DVC, "checkout", "--quiet", "--allow-missing"], folder)
        changed.write(folder)
        yield folder


def run(command: Sequence[str], folder: Path) -> list[str]:
    """Run a command in a project, log what it prints, and return it.

    Raises:
        CommandError: the command failed.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        get_run_logger().info(line)
        lines.append(line)

    stream(command, keep, folder, _environment(folder))
    return lines


class Reproduction:
    """DVC running stages one after the other, in one process: it starts more slowly than it looks at a stage.

    The process is there from now on, and waits for the first stage to be asked for. To be closed, which ends DVC and
    what it runs.
    """

    def __init__(self, folder: Path, order: Sequence[str]) -> None:
        self._folder = folder
        self._order = order
        self._dvc: Command | None = self._start(order)
        self._ahead: list[str] = []

    def lines_of(self, stage: str) -> Iterator[str]:
        """Yield what DVC prints of the next stage, or of the same one again if it failed: DVC is then started anew.

        Raises:
            CommandError: the stage failed.
        """
        left = self._order[self._order.index(stage) :]
        if self._dvc is None:
            self._dvc = self._start(left)
        self._dvc.begin()
        lines, self._ahead = chain(self._ahead, self._dvc.lines), []
        try:
            for line in lines:
                if len(left) > 1 and _begins(left[1], line):
                    self._ahead = [line]
                    return
                yield line
        except CommandError:
            self._dvc = None
            raise

    def close(self) -> None:
        """End DVC, if it runs."""
        if self._dvc is not None:
            self._dvc.close()

    def _start(self, left: Sequence[str]) -> Command:
        # of a file DVC takes all stages, in its order, and reads it once; and once for each stage that is named
        named = [DVC_YAML.name] if left == [*read_stages(self._folder)] else left
        command = [*DVC, "repro", "--single-item", *named]
        return Command(command, self._folder, _environment(self._folder) | {WAITS: "yes"}, waits=True)


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(reproduction: Reproduction, stage: str) -> dict[str, str]:
    """Run one stage with DVC, which does nothing if it is up to date; return what was done, and its time."""
    begun = time.monotonic()
    lines = []
    for line in reproduction.lines_of(stage):
        get_run_logger().info(line)
        lines.append(line)
    done = {f"Running stage '{stage}':": "ran", f"Stage '{stage}' is cached": "restored from DVC's cache"}
    told = [word for line in lines for beginning, word in done.items() if line.startswith(beginning)]
    return {
        "stage": stage,
        "done": told[0] if told else "nothing: up to date",
        "seconds": f"{time.monotonic() - begun:.1f}",
    }


_AHEAD: ContextVar[Reproduction | None] = ContextVar("reproduction that was started ahead", default=None)


@contextmanager
def started_ahead(order: Sequence[str]) -> Iterator[None]:
    """Have DVC start while Prefect begins a flow run, which takes as long; it waits for the run in this context."""
    with closing(Reproduction(_WORKSPACE, order)) as reproduction:
        before = _AHEAD.set(reproduction)
        try:
            yield
        finally:
            _AHEAD.reset(before)


def bring_up_to_date(folder: Path, order: Sequence[str]) -> list[dict[str, str]]:
    """Run stages one after the other, once the GPU is free; return what each did."""
    reproduction = _AHEAD.get() or Reproduction(folder, order)
    with closing(reproduction), the_gpu(), closing(reproduction):  # ended before others have the GPU
        return [
            run_stage.with_options(retries=_RETRIES.get(stage, 0), retry_delay_seconds=10)(reproduction, stage)
            for stage in order
        ]


def workspace_store() -> Store:
    """Open the store that the workspace publishes to.

    Raises:
        ParameterError: params.yaml is wrong.
        ReleaseError: the store's URL is not understood.
    """
    publish = load_shared().publish
    return open_store(publish.url, publish.endpoint_url)


def tag_run(profile: str, commit: str, changes: Mapping[str, Any], dirty: bool = False) -> None:
    """Tag the flow run with its profile, its commit (and whether the workspace differs from it), and every change."""
    told = [f"profile:{profile}", f"commit:{commit[:12]}{'-dirty' if dirty else ''}"]
    told += [f"{key}={value}" for key, value in changes.items()]
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags=[*flow_run.tags, *told])


def show_timings(done: list[dict[str, str]]) -> None:
    """Attach what each stage did to the flow run."""
    create_table_artifact(key="timings", table=done, description="What each stage did")


@task(cache_policy=NO_CACHE)
def show_metrics(folder: Path, publish: Mapping[str, Any], champion: str | None = CHAMPION) -> None:
    """Attach the metrics, beside the champion's, and the sample grid to the flow run.

    Args:
        folder: the project that was run.
        publish: where releases are, as in params.yaml.
        champion: an alias or a release, if there is one.
    """
    metrics = read_metrics(folder / paths.METRICS)
    systems = {name: figures for name, figures in metrics.items() if "rewards" in figures} | _figures_of(
        publish, champion
    )
    names = [name for name, value in metrics["generator"].items() if isinstance(value, float)]
    rows = [
        {"figure": name, **{key: _figure(one["rewards"].get(name, {}).get("mean")) for key, one in systems.items()}}
        for name in metrics["generator"]["rewards"]
    ]
    rows += [{"figure": name, **{key: _figure(one.get(name)) for key, one in systems.items()}} for name in names]
    create_table_artifact(key="metrics", table=rows, description="Means on prompts that training never saw")
    picture = base64.b64encode((folder / paths.SAMPLE_GRID).read_bytes()).decode()
    create_image_artifact(
        key="samples", image_url=f"data:image/png;base64,{picture}", description="The same prompts and noise"
    )


@task(cache_policy=NO_CACHE)
def show_release() -> None:
    """Attach links to the report and to the release to the flow run."""
    receipt = read_receipt(paths.RECEIPT)
    release = receipt["release"]
    create_link_artifact(key="report", link=paths.REPORT_PAGE.absolute().as_uri(), link_text="The report")
    create_markdown_artifact(
        key="release",
        markdown=f"Release `{release}` in `{receipt['url']}`.\n\n"
        f"    distar audit show {release[:16]}\n    distar release download {release[:16]} FOLDER\n",
    )


@flow(name="distar-pipeline", log_prints=True)
def pipeline(first: str | None = None, only: str | None = None, changes: dict[str, Any] | None = None) -> None:
    """Bring the stages that are asked for up to date.

    Args:
        first: a stage; it and what depends on it are run.
        only: a stage that is run alone.
        changes: parameters of params.yaml or the profile, by their path of keys; they are run in a worktree.

    Raises:
        ParameterError: there is no such stage or parameter; nothing was begun.
        CommandError: a stage failed.
    """
    order = chosen_stages(first, only, changes)
    changes = changes or {}
    shared = load_shared()
    tag_run(changes.get("profile", shared.profile), current_revision(), changes, dirty=not changes and _is_dirty())
    if PUBLISH in order:
        get_run_logger().info("The release goes to %s", workspace_store().place)
    with project(changes) as folder:
        show_timings(bring_up_to_date(folder, order))
        if "evaluate" in order:
            show_metrics(folder, shared.publish.model_dump())
    if PUBLISH in order:
        show_release()


def foreseen(order: Sequence[str], folder: Path) -> dict[str, str]:
    """Tell of each stage whether it would run, and why, as `dvc status` tells; nothing is run.

    `dvc repro --dry` does not: it stops where an output is missing, and takes a stage for up to date after one that is
    to run.
    """
    changed, needed = json.loads(output_of([*DVC, "status", "--json", *order], folder)), dependencies(folder)
    told: dict[str, str] = {}
    waiting: set[str] = set()
    for stage in order:
        if stage in changed:
            told[stage] = f"runs, or is restored from DVC's cache: {', '.join(_reasons(changed[stage]))}"
            waiting.add(stage)
        elif needed[stage] & waiting:
            told[stage] = "runs if what it reads comes out different"
            waiting.add(stage)
        else:
            told[stage] = "up to date"
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow from the command line; return the process's exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="first", metavar="STAGE", help="run this stage and what depends on it")
    parser.add_argument("--only", metavar="STAGE", help="run this stage alone")
    add_set_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="tell what would run, and run nothing")
    options = parser.parse_args(arguments)
    changes = dict(options.changes)

    def run() -> None:
        order = chosen_stages(options.first, options.only, changes)  # a wrong one is told before a server is started
        if options.dry_run:
            _show_foreseen(order, changes)
            return
        current_revision()  # without a commit there is no run to tell Prefect of
        with nullcontext() if changes else started_ahead(order):
            check_server()
            # whoever is there sees it end; Prefect would wait up to a second for the thread of its signs of life
            with temporary_settings(set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                pipeline(options.first, options.only, changes)

    kept = "DVC keeps the stages that ended; run the pipeline again: it goes on where it stood."
    return exit_status("pipeline", run, kept)


def _show_foreseen(order: Sequence[str], changes: Mapping[str, Any]) -> None:
    table = Table("stage", Column("what would be done", overflow="fold"))
    with project(changes) as folder:
        for stage, told in foreseen(order, folder).items():
            goes_to = f"; the release goes to {workspace_store().place}" if stage == PUBLISH else ""
            table.add_row(stage, escape(told + goes_to))
    Console().print(table)


def _begins(stage: str, line: str) -> bool:
    """Tell whether a line that DVC prints is the first of a stage: it runs, is up to date, restored, or cannot run."""
    return line.startswith((f"Running stage '{stage}'", f"Stage '{stage}'", f"ERROR: failed to reproduce '{stage}'"))


def _environment(folder: Path) -> dict[str, str]:
    """Return what commands in a worktree are told: checkpoints and downloads are the workspace's, and outlive it."""
    if folder == _WORKSPACE:
        return {}
    return {
        "DISTAR_WORK_DIR": str(paths.work_root("retrain").absolute()),
        "DISTAR_DOWNLOADS": str(downloads_dir().absolute()),
    }


def _is_dirty() -> bool:
    """Tell whether a tracked file of the workspace differs from the last commit."""
    return run_git("diff", "--quiet", "HEAD", "--", ".").returncode != 0


def _figures_of(publish: Mapping[str, Any], champion: str | None) -> dict[str, Any]:
    """Return the champion's figures, if there is one and its store can be read."""
    if champion is None:
        return {}
    try:
        store = open_store(publish["url"], publish["endpoint_url"])
        if champion == CHAMPION and read_alias(store, CHAMPION).release is None:
            return {}
        from distar.audit.evidence import gather  # and with it the key services' clients, for a champion alone

        return {CHAMPION: json.loads(gather(store, champion).read(paths.METRICS.name))["generator"]}
    except DistarError as error:
        get_run_logger().warning("The champion is not shown beside the metrics: %s", error)
        return {}


def _downstream(first: str, order: Sequence[str], needed: Mapping[str, set[str]]) -> list[str]:
    found = {first}
    for stage in order:
        if needed[stage] & found:
            found.add(stage)
    return [stage for stage in order if stage in found]


def _reasons(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Flatten what `dvc status` says of a stage: `outputs/prompts deleted`, `profiles/tiny.yaml: train modified`."""
    for entry in entries:
        for what, changes in entry.items():
            for path, state in changes.items() if isinstance(changes, dict) else [(what, changes)]:
                if isinstance(state, dict):
                    yield from (f"{path}: {key} {change}" for key, change in state.items())
                else:
                    yield f"{path} {state}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
