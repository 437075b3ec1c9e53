"""Serve the flows from one box: on their schedules, on events, and by hand from Prefect's pages.

    python -m flows.deployments serve --dry-run
    python -m flows.deployments serve
    python -m flows.deployments notify --block slack-webhook/on-call

When each begins by itself stands in params.yaml, `retrain.schedule` and `retrain.watch`. A team that has work pools
deploys the same three from prefect.yaml. See docs/operations.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import SendNotification
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule
from rich.console import Console
from rich.table import Column, Table

from distar.commands.arguments import Parser
from distar.credentials import refuse_more_than_an_address
from distar.errors import ParameterError
from distar.release.storage import open_store
from distar.secrets import print_exception
from distar.shared_params import PARAMS_PATH, RootParams, ScheduleParams, load_shared
from flows import gpu
from flows.events import PROMPTSET_PUBLISHED, REWARD_REGRESSED, require_server
from flows.exit_status import exit_status
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.watch import watch

_SECONDS_BETWEEN_LOOKS = 2.0  # Prefect looks for runs every ten seconds, and an event should be answered sooner
_NOTIFICATIONS = "distar-notifications"
_ALARMS = ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Rejected")


def deployments(shared: RootParams, store: str | None) -> list[RunnerDeployment]:
    """Describe what is served.

    Args:
        shared: when each begins by itself.
        store: the URL of the store to publish to, if not that of params.yaml; it is in the S3 that the environment
            names.

    Raises:
        ParameterError: a schedule or the store's URL is not understood.
    """
    schedule, watched = shared.retrain.schedule, shared.retrain.watch
    publishing: dict[str, Any] = {}
    if store is not None:
        refuse_more_than_an_address(store, "--store")
        open_store(store)
        publishing = {"store": store}
    watching = {"prompts": watched.prompts, "margin": watched.margin} if watched else {}
    described = [
        retrain.to_deployment(
            "retrain",
            description="Train at the last commit; promote what passes the gate.",
            schedules=[_cron(schedule)] if schedule else [],
            triggers=[_on(PROMPTSET_PUBLISHED), _on(REWARD_REGRESSED)],
            parameters=publishing,
        ),
        watch.to_deployment(
            "watch",
            description="Score the champion; tell if its reward fell.",
            schedules=[Interval(watched.interval_seconds)] if watched else [],
            parameters=watching | publishing,
        ),
        pipeline.to_deployment("pipeline", description="Bring the workspace up to date, by hand."),
    ]
    return cast(
        "list[RunnerDeployment]", described
    )  # each is a coroutine where there is an event loop, and here is none


class _Runner(Runner):
    """Prefect's, which SIGTERM ends; 3.8's own goes without its runs, and they stay "Running" and hold the GPU."""

    _ending: asyncio.Task[None]  # or nothing would hold it

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        """End the runs, tell the server that they are cancelled, and end; the second time, end at once."""
        del args, kwargs
        if not self.started:
            sys.exit(1)
        asyncio.get_running_loop().call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ending = asyncio.create_task(self.astop())


def serve_all(shared: RootParams, store: str | None) -> None:
    """Serve until the process is ended; its runs end then, and schedules pause, so that no runs pile up.

    Raises:
        ParameterError: as `deployments`; or there is no server.
    """
    served = deployments(shared, store)
    require_server()
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(gpu.LIMIT, 1)
    runner = _Runner(query_seconds=_SECONDS_BETWEEN_LOOKS, limit=None)  # runs that wait for the GPU count
    for one in served:
        runner.add_deployment(one)
    console = Console()
    _show(served, shared, store, console)
    console.print("All are being served; SIGTERM or Ctrl-C ends that.")
    with suppress(KeyboardInterrupt):
        asyncio.run(runner.start())


def notify(block: str) -> None:
    """Have failed and rejected runs, and falls of the reward, told through a notification block, `TYPE/NAME`.

    Raises:
        ParameterError: there is no such block, or no server.
    """
    kind, _, name = block.partition("/")
    require_server()
    try:
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise ParameterError(
            f"--block: there is no block {block!r}, TYPE/NAME; `prefect block ls` lists those that are; make one "
            "on Prefect's page Blocks"
        ) from None
    flows = [flow.name for flow in (retrain, watch, pipeline)]
    told = SendNotification(
        block_document_id=document.id,
        subject="distar: {{ event.event }}",
        body="{{ event.event }}\n{{ event.resource.name }}\n{{ event.payload }}",
    )
    of_our_flows = {"prefect.resource.role": "flow", "prefect.resource.name": flows}
    alarms = {*_ALARMS, REWARD_REGRESSED}
    trigger = EventTrigger(expect=alarms, match_related=ResourceSpecification(of_our_flows), posture=Posture.Reactive)
    automation = Automation(name=_NOTIFICATIONS, trigger=trigger, actions=[told])
    try:
        automation.id = cast("Automation", Automation.read(name=_NOTIFICATIONS)).id
    except ValueError:
        automation.create()
    else:
        automation.update()


def _cron(params: ScheduleParams) -> Schedule:
    chosen = {"reason": "on schedule", "jitter_seconds": params.jitter_seconds}
    try:
        return Cron(params.cron, timezone=params.timezone, parameters=chosen)
    except ValueError as error:
        raise ParameterError(
            f"{PARAMS_PATH}: retrain.schedule.cron: got {params.cron!r}; expected minute, hour, day of the month, "
            f'month and day of the week, such as "0 3 * * 1" ({error})'
        ) from error


def _on(event: str) -> DeploymentEventTrigger:
    reason = {"__prefect_kind": "jinja", "template": "{{ event.event }}: {{ event.resource.id }}"}
    return DeploymentEventTrigger(name=f"retrain on {event}", expect={event}, parameters={"reason": reason})


def _show(served: Sequence[RunnerDeployment], shared: RootParams, store: str | None, console: Console) -> None:
    """Show what is served, and where releases go."""
    console.print(_table(served))
    of_params = open_store(shared.publish.url, shared.publish.endpoint_url).place
    of_retrains = f"{of_params}, as {PARAMS_PATH} says" if store is None else open_store(store).place
    for told in (
        f"Retrains publish to {of_retrains}; `store` or a change of `publish.url` names another.",
        f"The pipeline publishes to {of_params}, as {PARAMS_PATH} says.",
    ):
        console.print(told, markup=False, soft_wrap=True)


def _table(served: Sequence[RunnerDeployment]) -> Table:
    rows = Table(*(Column(title, overflow="fold") for title in ("deployment", "begins", "parameters")))
    for one in served:
        schedules = [_told(entry.schedule) for entry in one.schedules or []]
        events = [f"on {name}" for trigger in one.triggers for name in getattr(trigger, "expect", ())]
        parameters = "\n".join(f"{name}: {value}" for name, value in one.parameters.items())
        rows.add_row(one.full_name, "\n".join([*schedules, *events, "by hand"]), parameters)
    return rows


def _told(schedule: Any) -> str:
    if isinstance(schedule, CronSchedule):
        return f"at {schedule.cron} {schedule.timezone}"
    return f"every {schedule.interval}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the process's exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="serve retrain, watch and pipeline from this process")
    serving.add_argument("--store", metavar="URL", help="publish there, not to the store of params.yaml")
    serving.add_argument("--dry-run", action="store_true", help="check the parameters, and show what would be served")
    notifying = commands.add_parser("notify", help="tell failures through a notification block")
    notifying.add_argument("--block", required=True, metavar="TYPE/NAME", help="as `prefect block ls` lists it")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.command == "notify":
            notify(options.block)
        elif options.dry_run:
            shared = load_shared()
            _show(deployments(shared, options.store), shared, options.store, Console())
        else:
            serve_all(load_shared(), options.store)

    return exit_status("deployments", run, "Start it, and this command again.")


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
