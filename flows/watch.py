"""Watch the champion: draw with the published release, score what it draws, and tell if its reward fell.

    python -m flows.watch --prompts file://prompts/recent.txt --margin 3

What the release scored when it was evaluated is what it should score today; on other prompts, what it scored when it
was first watched on them. A fall by more than `margin` standard errors emits the event `distar.reward.regressed`.
Where the prompts are the same, differences are taken prompt by prompt, since prompts differ far more than a release
from itself; the fall must then also exceed what the rounding of another device can do. Otherwise means are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import flow, get_run_logger, task
from prefect.artifacts import Artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import Field, RootModel
from typing_extensions import TypedDict

from distar.atomic import written_whole
from distar.commands.arguments import Parser, non_negative
from distar.credentials import refuse_credentials
from distar.documents import content_of, read_json, validated
from distar.errors import DistarError, PromptError
from distar.evaluation.gate import estimate
from distar.fetching.downloads import downloads_dir
from distar.release.releases import find
from distar.releasing import at_hand, chosen_store
from distar.secrets import print_exception
from distar.worktree import DVC, worktree
from flows.commands import stream
from flows.events import REWARD_REGRESSED, check_server
from flows.exit_status import exit_status
from flows.gpu import the_gpu

_SERIES = "watch"  # the artifact's key
_NUM_ROWS = 200
# How far another device's rounding may move a mean, in standard deviations between prompts. The tiny champion's moves
# by 0.00001 with other vector instructions, by 0.0001 with factors rounded as in TF32, by 0.003 as in bfloat16.
_ROUNDING = 0.01


@task(cache_policy=NO_CACHE)
def score(release: Path, prompts: Path | None) -> dict[str, Any]:
    """Score a release's folder at the workspace's last commit; return what `distar score --json` prints."""
    log, environment = get_run_logger().info, {"DISTAR_DOWNLOADS": str(downloads_dir().absolute())}
    chosen = [] if prompts is None else ["--prompts", str(prompts)]
    with worktree("HEAD") as folder:
        stream([*DVC, "repro", "rewards", "prompts"], log, folder, environment)
        figures = folder / "scored.json"
        command = [sys.executable, "-m", "distar", "score", str(release), *chosen, "--json"]
        into_file = ["sh", "-c", 'exec "$@" > "$0"', str(figures), *command]  # what else it prints goes to the log
        with the_gpu():
            stream(into_file, log, cwd=folder)
        return read_json(
            content_of(figures, DistarError, "look at the log above"), "`distar score --json`", DistarError
        )


class _FirstWatch(TypedDict):
    """What is remembered of a first watch."""

    prompts: str
    reward: str
    scorer: str
    mean: float
    sem: float | None
    scores: list[tuple[str, str | None, float]]


class _Memory(RootModel[list[_FirstWatch]]):
    """The first watches of a release."""


@dataclass(frozen=True)
class Before:
    """What a reward was: its figures, and each prompt's score if the prompts were the same as now."""

    mean: float
    sem: float
    scores: list[float] | None


def before(
    scored: dict[str, Any], release: str, earlier: Sequence[dict[str, Any]], remembered: Sequence[dict[str, Any]]
) -> Before | None:
    """Return what the reward was: as the release states it, or at its first watch; None if this is the first.

    Args:
        scored: what `distar score --json` printed.
        release: the release's id.
        earlier: the rows of the series.
        remembered: the scores of this release's first watches.
    """
    reward, what = scored["compare_by"], _what(scored)
    if not scored["prompts"] and reward in scored["released"]:
        stated = [one["released"].get(reward) for one in scored["by_prompt"]]
        return Before(**scored["released"][reward], scores=None if None in stated else stated)
    first = next((one for one in remembered if what.items() <= one.items()), None)
    if first is not None:
        same = [one[:2] for one in first["scores"]] == [one[:2] for one in _scores(scored)]
        return Before(first["mean"], first["sem"], [one[2] for one in first["scores"]] if same else None)
    row = next((one for one in earlier if {"release": release, **what}.items() <= one.items()), None)
    return None if row is None else Before(row["mean_before"], row["sem_before"], None)


def first_watch(scored: dict[str, Any]) -> dict[str, Any]:
    """Return what is remembered of a first watch."""
    return {**_what(scored), **scored["scores"][scored["compare_by"]], "scores": _scores(scored)}


def compared(scored: dict[str, Any], release: str, margin: float, was: Before | None) -> dict[str, Any]:
    """Compare the reward with what it was: a row of the series.

    Raises:
        PromptError: there are too few prompts to tell chance from a fall.
    """
    now = scored["scores"][scored["compare_by"]]
    if now["sem"] is None:
        raise PromptError(f"{scored['prompts']} holds one prompt, whose score has no standard error; add more")
    was = was or Before(now["mean"], now["sem"], None)
    if was.scores is None:
        fall, allowed = was.mean - now["mean"], margin * math.hypot(was.sem, now["sem"])
    else:
        fall, error = _fall_by_prompt(scored, was.scores)
        allowed = max(margin * error, _ROUNDING * was.sem * math.sqrt(len(was.scores)))
    return {
        "release": release,
        **_what(scored),
        **now,
        "mean_before": was.mean,
        "sem_before": was.sem,
        "paired": was.scores is not None,
        "fall": fall,
        "allowed": allowed,
        "regressed": fall > allowed,
    }


def _fall_by_prompt(scored: dict[str, Any], then: Sequence[float]) -> tuple[float, float]:
    """Return by how much the reward fell and the standard error, from the differences on each prompt."""
    reward, by_style = scored["compare_by"], scored["protocol"] == "hpsv2"
    groups: dict[str, list[float]] = {}
    for one, score in zip(scored["by_prompt"], then, strict=True):
        groups.setdefault(one["label"] if by_style else "", []).append(score - one["scores"][reward])
    return estimate(list(groups.values()))


def _what(scored: dict[str, Any]) -> dict[str, str]:
    """Return what only scores of the same can be compared with."""
    prompts = scored["prompts"] or "evaluation"
    return {"prompts": prompts, "reward": scored["compare_by"], "scorer": scored["scorer"]}


def _scores(scored: dict[str, Any]) -> list[list[Any]]:
    """Return prompt, label and score in the order of the prompts."""
    return [[one["prompt"], one["label"], one["scores"][scored["compare_by"]]] for one in scored["by_prompt"]]


def read_memory(path: Path) -> list[dict[str, Any]]:
    """Read what is remembered of a release's first watches.

    Raises:
        DistarError: it is damaged.
    """
    content = read_json(content_of(path, DistarError, "watch again"), str(path), DistarError)
    validated(_Memory, content, f"{path} (remove it to watch the release anew)", DistarError)
    return content


@flow(name="distar-watch")
def watch(
    alias: str = "champion",
    prompts: str | None = None,
    margin: Annotated[float, Field(ge=0)] = 3.0,
    store: str | None = None,
) -> dict[str, Any]:
    """Score the release that an alias points at, add the figures to the series, and tell if its reward fell.

    Args:
        alias: an alias of the store, or a release's id.
        prompts: `file://` and a text file with a prompt a line; the profile's evaluation prompts if not given.
        margin: how far the reward may fall, in standard errors of the difference, which is taken prompt by prompt where
            the prompts are the same as before.
        store: the store's URL, if not that of params.yaml.

    Raises:
        ReleaseError: there is no such release.
        CommandError: it could not be scored; the message says why.
    """
    refuse_credentials([alias, prompts], "watch")
    source, file = chosen_store(store), None
    if prompts is not None:
        file = Path(prompts.removeprefix("file://")).absolute()
        if not file.is_file():
            raise PromptError(f"prompts: got {prompts!r}, which is no file; expected file://PATH, a prompt a line")
    release = find(source, alias)
    with at_hand(source, release) as folder:
        scored = score(folder, file)
        last = cast("Artifact | None", Artifact.get(_SERIES))
        earlier = json.loads(str(last.data)) if last else []
        memory = folder.with_suffix(".json")  # beside the release: `distar audit prune` removes both
        remembered = read_memory(memory) if memory.exists() else []
        was = before(scored, release, earlier, remembered)
        row = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "alias": alias,
            **compared(scored, release, margin, was),
        }
        if was is None:
            with written_whole(memory) as path:
                path.write_text(json.dumps([*remembered, first_watch(scored)]), encoding="utf-8")
    create_table_artifact(key=_SERIES, table=[*earlier, row][-_NUM_ROWS:], description="The champion, watched")
    told = "{reward} of {release:.16}: {mean:.4f}, before {mean_before:.4f}".format(**row)
    if row["regressed"]:
        get_run_logger().warning("%s: it fell by %.4f, and %.4f is allowed", told, row["fall"], row["allowed"])
        resource = {"prefect.resource.id": f"distar.release.{release}", "prefect.resource.name": alias}
        emit_event(event=REWARD_REGRESSED, resource=resource, payload=row)
    else:
        get_run_logger().info("%s", told)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow from the command line; return the process's exit status: 2 if the reward fell."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alias", default="champion", help="an alias of the store, or a release's id (champion)")
    parser.add_argument("--prompts", metavar="URL", help="file:// and a file (the profile's evaluation prompts)")
    parser.add_argument("--margin", type=non_negative, default=3.0, help="how far it may fall, in standard errors (3)")
    parser.add_argument("--store", metavar="URL", help="file://folder or s3://bucket/prefix (that of params.yaml)")
    options = parser.parse_args(arguments)

    def run() -> int:
        check_server()
        return 2 if watch(options.alias, options.prompts, options.margin, options.store)["regressed"] else 0

    return exit_status("watch", run, "The series lacks this watch: watch again.")


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
