"""Retrain beside the workspace: train at a commit, judge what comes out, and make it the champion or say why not.

    python -m flows.retrain --revision main --set train.reward_scale=2.0 --reason "a new prompt set"

Everything runs in a git worktree of its own, with the workspace's DVC cache, records and checkpoints; what is not
committed is not seen, and the workspace is not touched. Whatever comes out is published, and recorded on a branch
`retrain/…`: its parameters, dvc.lock and metrics, with the verdict in the message. What passes the gate becomes
`champion` and `latest`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, State
from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from distar import paths
from distar.audit.evidence import gather
from distar.commands.arguments import Parser
from distar.credentials import refuse_credentials
from distar.documents import validated
from distar.errors import ParameterError, ReleaseError, StorageError
from distar.evaluation.gate import Evaluated, GateParams, Verdict, judge, verdict_markdown
from distar.git import current_revision, run_git
from distar.lineage.pipeline import DVC_LOCK
from distar.release.releases import move, point, read_alias
from distar.release.storage import Store, open_store
from distar.secrets import print_exception
from distar.shared_params import PublishParams
from distar.worktree import DVC, output_of, worktree
from flows.changes import PARAMS, Changed, add_set_option, changed_parameters
from flows.commands import CommandError
from flows.events import check_server
from flows.exit_status import exit_status
from flows.pipeline import (
    CHAMPION,
    PUBLISH,
    bring_up_to_date,
    read_receipt,
    run,
    show_metrics,
    show_timings,
    stages,
    tag_run,
)
from flows.remote import copy_remote, default_remote

LATEST = "latest"

_BRANCHES = "retrain"
_TRIES_TO_PROMOTE = 5
_SECONDS_BETWEEN_TRIES = (10.0, 60.0)
_PATIENT = {"retries": len(_SECONDS_BETWEEN_TRIES), "retry_delay_seconds": list(_SECONDS_BETWEEN_TRIES)}


class _Publish(TypedDict):
    url: str
    endpoint_url: str | None


class _Shared(TypedDict):
    """What params.yaml must say for a retrain, whatever else it says at that commit."""

    profile: str
    publish: _Publish


class _Evaluate(TypedDict):
    compare_by: str
    judge: str | None
    rewards: list[str]


class _Profile(TypedDict):
    """What the profile must say for the gate."""

    evaluate: _Evaluate


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        commit: where the worktree is checked out.
        changed: the parameters there, after the changes.
        told: what was asked for, for people.
    """

    commit: str
    changed: Changed
    told: dict[str, str]

    def store(self) -> Store:
        """Open the store of releases; a folder is the workspace's.

        Raises:
            ParameterError: params.yaml or a change does not say where releases go, or not as is expected.
            ReleaseError: the store's URL is not understood.
        """
        publish = validated(PublishParams, self.changed.shared.get("publish"), f"{PARAMS}: publish", ParameterError)
        return open_store(publish.url, publish.endpoint_url)

    def gate(self) -> GateParams:
        """Return what a candidate must reach.

        Raises:
            ParameterError: params.yaml does not say, or not what is expected.
        """
        try:
            return GateParams.model_validate(self.changed.shared["retrain"]["gate"])
        except (KeyError, TypeError):
            raise ParameterError(f"{PARAMS} at {self.commit[:12]} has no retrain.gate; see docs/gate.md") from None
        except ValidationError as error:
            wrong = [".".join(map(str, one["loc"])) + f": got {one['input']!r}: {one['msg']}" for one in error.errors()]
            raise ParameterError(f"{PARAMS}: retrain.gate.{'; '.join(wrong)}; see docs/gate.md") from None


@dataclass(frozen=True)
class Outcome:
    """What came of a retrain, judged against the champion, if any; `promoted` tells whether it is the champion now."""

    release: str
    champion: str | None
    branch: str
    verdict: Verdict
    promoted: bool

    @property
    def told(self) -> str:
        """The outcome in a paragraph."""
        became = "is the champion" if self.promoted else "did not become the champion"
        return f"Release {self.release} {became}; recorded on {self.branch}. {self.verdict.summary}"


def make_plan(
    revision: str, profile: str | None, changes: Mapping[str, Any], reason: str, store: str | None = None
) -> Plan:
    """Look whether everything that is asked for exists, before anything is begun.

    Args:
        revision: as all others, what `retrain` is given.
        profile: the profile, or None.
        changes: parameters; a store that they name comes before `store`.
        reason: why.
        store: the store's URL, or None.

    Raises:
        ParameterError: there is no such revision, profile or parameter.
        ReleaseError: the store's URL is not understood.
        StorageError: there is no commit yet, or the default DVC remote is defined nowhere.
    """
    commit = _commit(revision)
    refuse_credentials(reason, "reason")
    served = {} if store is None or "publish.url" in changes else {"publish.url": store, "publish.endpoint_url": None}
    changes = {**({} if profile is None else {"profile": profile}), **served, **changes}
    changed = changed_parameters(commit, changes)
    told = {"Reason": reason, "Revision": f"{commit} ({revision})"}
    told |= {"Changes": ", ".join(f"{key}={json.dumps(value)}" for key, value in changes.items())} if changes else {}
    plan = Plan(commit, changed, told)
    plan.store()
    own = changed.profile
    validated(_Profile, own, str(changed.profile_path), ParameterError)
    plan.gate().check_covers(own["evaluate"]["compare_by"], Evaluated([], [], {}, own, {}).held_out)
    default_remote(Path())
    return plan


@task(cache_policy=NO_CACHE, **_PATIENT)
def publish(folder: Path) -> str:
    """Publish the release to the workspace's store and leave all aliases where they are; return its id."""
    run([sys.executable, "-m", "distar", "publish", "--project", str(Path.cwd()), "--no-latest"], folder)
    return read_receipt(folder / paths.RECEIPT)["release"]


def _store_failed(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), StorageError)


@task(cache_policy=NO_CACHE, retry_condition_fn=_store_failed, **_PATIENT)
def decide(plan: Plan, folder: Path, release: str, branch: str) -> Outcome:
    """Judge the release against the champion, record both on a branch, and promote it if it passed.

    If the champion is another by then, the release is judged against that one: nobody's promotion is overwritten.

    Raises:
        ReleaseError: the champion changed time and again.
        StorageError: the store cannot be reached; this was tried several times.
    """
    store, gate = plan.store(), plan.gate()
    for _ in range(_TRIES_TO_PROMOTE):
        standing = read_alias(store, CHAMPION)
        promoted = standing.release == release  # by a run that made the same, or was killed when it had promoted it
        champion = standing.history[-1].from_release if promoted else standing.release
        verdict = _judged(folder, store, champion, gate)
        _record(plan, folder, branch, _message(plan, release, champion, verdict))
        if not (promoted or verdict.promote):
            return Outcome(release, champion, branch, verdict, promoted=False)
        if not promoted:
            try:
                move(store, CHAMPION, release, expected=champion)
            except ReleaseError as error:
                if read_alias(store, CHAMPION).release == champion:
                    raise
                get_run_logger().info("%s; the release is judged again", error)
                continue
        point(store, LATEST, release)
        return Outcome(release, champion, branch, verdict, promoted=True)
    raise ReleaseError(
        f"{store.url}: {CHAMPION} was moved by others {_TRIES_TO_PROMOTE} times while release {release} was judged; it "
        f"is published, and recorded on {branch}: retrain again when that has come to rest"
    )


@task(cache_policy=NO_CACHE, **_PATIENT)
def push(folder: Path) -> None:
    """Push what DVC keeps of the run to the workspace's default remote, if it has one."""
    workspace = Path()
    remote = default_remote(workspace)
    if remote is None:
        return
    copy_remote(remote, workspace, folder)
    run([*DVC, "push", "--run-cache"], folder)


@task(cache_policy=NO_CACHE)
def report(outcome: Outcome) -> None:
    """Attach the verdict to the flow run."""
    told = output_of(["git", "log", "-1", "--format=# %s%n%n%b", outcome.branch])
    create_markdown_artifact(
        key="retrain", markdown=f"{told}\n\nRecorded on `{outcome.branch}`.", description="Verdict"
    )


@flow(name="distar-retrain")
def retrain(
    revision: str = "HEAD",
    profile: str | None = None,
    changes: dict[str, Any] | None = None,
    reason: str = "by hand",
    jitter_seconds: Annotated[int, Field(ge=0)] = 0,
    store: str | None = None,
) -> Outcome:
    """Train at a revision with changed parameters, publish, and promote if the gate lets it pass.

    Args:
        revision: a branch, tag or commit; what is not committed is not seen.
        profile: the profile, if not that of params.yaml.
        changes: parameters of params.yaml or the profile, by their path of keys: {"train.reward_scale": 2.0}.
        reason: why, for the record.
        jitter_seconds: begin up to so much later, drawn anew, so that many boxes do not begin at once.
        store: the URL of the store to publish to, in the S3 that the environment names, if not that of params.yaml;
            `publish.url` among the changes comes first.

    Raises:
        ParameterError: there is no such revision, profile or parameter; nothing was begun.
        ReleaseError: releases cannot be compared or promoted.
        CommandError: a stage failed.
    """
    plan = make_plan(revision, profile, changes or {}, reason, store)
    get_run_logger().info("The release will go to %s", plan.store().place)
    time.sleep(random.uniform(0, jitter_seconds))
    get_run_logger().info("Retraining at %s", plan.told["Revision"])
    tag_run(plan.changed.shared["profile"], plan.commit, changes or {})
    with worktree(plan.commit) as folder:
        plan.changed.write(folder)
        done = bring_up_to_date(folder, [stage for stage in stages(folder) if stage != PUBLISH])
        release = publish(folder)
        outcome = decide(plan, folder, release, f"{_BRANCHES}/{datetime.now(UTC):%Y%m%d-%H%M%S}-{flow_run.id[:8]}")
        get_run_logger().info(outcome.told)
        try:
            push(folder)
        except (CommandError, StorageError) as error:
            raise CommandError(f"{outcome.told} What DVC keeps of it could not be pushed: {error}") from error
        finally:  # and last: a server that was lost can be told nothing, and must keep nothing from being done
            show_timings(done)
            show_metrics(folder, plan.changed.shared["publish"], outcome.champion)
            report(outcome)
    name = "Promoted" if outcome.promoted else "Rejected"
    return Completed(name=name, message=outcome.told, data=outcome)  # pyright: ignore[reportReturnType]  Prefect unwraps it


def _commit(revision: str) -> str:
    found = run_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        told = found.stderr.decode(errors="replace").strip()  # such as the clone of another owner
        if not told:
            current_revision()  # or there is no commit at all
        refused = f"; git says: {told}" if told else ""
        raise ParameterError(
            f"revision: got {revision!r}, expected a branch, a tag or a commit of this repository{refused}"
        )
    return found.stdout.decode().strip()


def _judged(folder: Path, store: Store, champion: str | None, gate: GateParams) -> Verdict:
    candidate = Evaluated.read(lambda name: (folder / paths.RELEASE / name).read_bytes())
    return judge(candidate, None if champion is None else Evaluated.read(gather(store, champion).read), gate)


def _message(plan: Plan, release: str, champion: str | None, verdict: Verdict) -> str:
    told = {
        **plan.told,
        "Release": f"{release} in {plan.store().url}",
        "Champion": champion or "none yet",
        "Flow run": flow_run.id,
    }
    facts = "\n".join(f"{name}: {value}  " for name, value in told.items())
    title = f"Retrain: release {release[:12]} {'passes' if verdict.promote else 'does not pass'} the gate"
    return f"{title}\n\n{facts}\n\n{verdict_markdown(verdict)}"


def _record(plan: Plan, folder: Path, branch: str, message: str) -> None:
    """Commit what the run was made of and came to, on a branch; no hook runs, and no other branch or index changes."""
    output_of(
        ["git", "add", "--", str(PARAMS), str(plan.changed.profile_path), str(DVC_LOCK), str(paths.METRICS)], folder
    )
    tree = output_of(["git", "write-tree"], folder)
    commit = output_of(["git", *_identity(), "commit-tree", tree, "-p", plan.commit, "-m", message], folder)
    output_of(["git", "update-ref", f"refs/heads/{branch}", commit], folder)


def _identity() -> list[str]:
    """Return git's options for an author, where the configuration and the environment name none."""
    known = run_git("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT").returncode == 0
    return [] if known else ["-c", "user.name=distar", "-c", "user.email=distar@localhost"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow from the command line; return the process's exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revision", default="HEAD", help="a branch, tag or commit (HEAD)")
    parser.add_argument("--profile", help="the profile (that of params.yaml)")
    add_set_option(parser)
    parser.add_argument("--reason", default="by hand", help="why, for the record")
    options = parser.parse_args(arguments)

    def run_it() -> None:
        refuse_credentials(vars(options), "argument")
        _commit(options.revision)  # a wrong one is told before a server is started
        check_server()
        print(retrain(options.revision, options.profile, dict(options.changes), options.reason).told)

    newest = f"git log --branches='{_BRANCHES}/*'"
    kept = f"What this run decided, if anything, is told above, and on the newest branch: {newest}"
    return exit_status("retrain", run_it, kept)


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
