"""Watch the champion: draw with the published release, score what it draws, and tell if its reward fell.

    python -m flows.watch --prompts file://prompts/recent.txt --margin 3

What the release scored when it was evaluated is what it should score today; on other prompts, what it scored when it
was first watched on them. A fall by more than `margin` standard errors emits the event `distar.reward.regressed`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger, task
from prefect.artifacts import Artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from distar.errors import DistarError, PromptError
from distar.fetching.downloads import downloads_dir
from distar.release.releases import download, find
from distar.releasing import chosen_store
from distar.worktree import DVC, worktree
from flows.commands import stream
from flows.events import REWARD_REGRESSED
from flows.gpu import the_gpu

_SERIES = "watch"  # the artifact's key
_NUM_ROWS = 200
_SAME = ("release", "prompts", "reward")


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
        return json.loads(figures.read_text(encoding="utf-8"))


def compared(scored: dict[str, Any], release: str, margin: float, earlier: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the reward with what it was: a row of the series.

    Raises:
        PromptError: there are too few prompts to tell chance from a fall.
    """
    reward = scored["compare_by"]
    now = scored["scores"][reward]
    if now["sem"] is None:
        raise PromptError(f"{scored['prompts']} holds one prompt, whose score has no standard error; add more")
    row = {"release": release, "prompts": scored["prompts"] or "evaluation", "reward": reward, **now}
    before = None if scored["prompts"] else scored["released"].get(reward)
    if before is None:
        same = (other for other in earlier if all(other[key] == row[key] for key in _SAME))
        first = next(same, {"mean_before": now["mean"], "sem_before": now["sem"]})
        before = {"mean": first["mean_before"], "sem": first["sem_before"]}
    fall, error = before["mean"] - now["mean"], math.hypot(before["sem"], now["sem"])
    return {
        **row,
        "mean_before": before["mean"],
        "sem_before": before["sem"],
        "fall": fall,
        "allowed": margin * error,
        "regressed": fall > margin * error,
    }


@flow(name="distar-watch")
def watch(
    alias: str = "champion", prompts: str | None = None, margin: float = 3.0, store: str | None = None
) -> dict[str, Any]:
    """Score the release that an alias points at, add the figures to the series, and tell if its reward fell.

    Args:
        alias: an alias of the store, or a release's id.
        prompts: `file://` and a text file with a prompt a line; the profile's evaluation prompts if not given.
        margin: how far the reward may fall, in standard errors of the difference.
        store: the store's URL, if not that of params.yaml.

    Raises:
        ReleaseError: there is no such release.
        CommandError: it could not be scored; the message says why.
    """
    source, file = chosen_store(store), None
    if prompts is not None:
        file = Path(prompts.removeprefix("file://")).absolute()
        if not file.is_file():
            raise PromptError(f"prompts: got {prompts!r}, which is no file; expected file://PATH, a prompt a line")
    release = find(source, alias)
    folder = (downloads_dir() / "releases" / release).absolute()
    if not folder.exists():
        download(source, release, folder)
    scored = score(folder, file)
    last = cast("Artifact | None", Artifact.get(_SERIES))
    earlier = json.loads(str(last.data)) if last else []
    row = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "alias": alias,
        **compared(scored, release, margin, earlier),
    }
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alias", default="champion", help="an alias of the store, or a release's id (champion)")
    parser.add_argument("--prompts", metavar="URL", help="file:// and a file (the profile's evaluation prompts)")
    parser.add_argument("--margin", type=float, default=3.0, help="how far it may fall, in standard errors (3)")
    parser.add_argument("--store", metavar="URL", help="file://folder or s3://bucket/prefix (that of params.yaml)")
    options = parser.parse_args(arguments)
    try:
        row = watch(options.alias, options.prompts, options.margin, options.store)
    except DistarError as error:
        print(f"watch: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 2 if row["regressed"] else 0


if __name__ == "__main__":
    sys.exit(main())
