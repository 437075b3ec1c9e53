"""What is served, described without a server: schedules, events, parameters; what is refused before anything starts."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from rich.console import Console

from distar.__main__ import main as command
from distar.errors import DistarError, ParameterError
from distar.shared_params import load_shared
from flows import pipeline, promptset
from flows.deployments import deployments, main
from flows.retrain import make_plan
from flows.server import tell
from tests.miniature import edit

SCHEDULE = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "jitter_seconds": 60}
WATCH = {"interval_seconds": 600, "prompts": "file://prompts/recent.txt", "margin": 2.0}


def test_schedules_are_those_of_the_parameters(project: Path) -> None:
    edit(project / "params.yaml", "retrain", "schedule", value=SCHEDULE)
    edit(project / "params.yaml", "retrain", "watch", value=WATCH)
    retrain, watch, pipeline = deployments(load_shared(), None)
    (cron,) = retrain.schedules or []
    assert isinstance(cron.schedule, CronSchedule)
    assert (cron.schedule.cron, cron.schedule.timezone) == ("30 2 * * *", "Europe/Berlin")
    assert cron.parameters == {"reason": "on schedule", "jitter_seconds": 60}
    (interval,) = watch.schedules or []
    assert isinstance(interval.schedule, IntervalSchedule)
    assert interval.schedule.interval == timedelta(minutes=10)
    assert watch.parameters == {"prompts": "file://prompts/recent.txt", "margin": 2.0}
    assert not pipeline.schedules


def test_nothing_begins_by_itself_unless_asked(project: Path) -> None:
    for one in deployments(load_shared(project), None):
        assert not one.schedules


def test_another_store_is_what_retrain_publishes_to_and_watch_reads_from(project: Path) -> None:
    retrain, watch, _ = deployments(load_shared(project), "s3://bucket/releases")
    assert retrain.parameters == {"store": "s3://bucket/releases"}  # which a run's own `changes` leave as it is
    assert watch.parameters["store"] == "s3://bucket/releases"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("s3://team/releases", None)),
        ({"train.num_steps": 3}, ("s3://team/releases", None)),
        ({"publish.url": "file://mine"}, ("file://mine", None)),
        ({"publish.url": "s3://b/p", "publish.endpoint_url": "http://127.0.0.1:1"}, ("s3://b/p", "http://127.0.0.1:1")),
        ({"publish.endpoint_url": "http://127.0.0.1:1"}, ("s3://team/releases", "http://127.0.0.1:1")),
    ],
)
def test_changes_leave_the_store_unless_they_name_it(
    reproduced: Path, changes: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    assert reproduced
    plan = make_plan("HEAD", None, changes, "by hand", "s3://team/releases")
    assert (plan.changed.shared["publish"]["url"], plan.changed.shared["publish"]["endpoint_url"]) == expected
    assert plan.store().url == expected[0]
    assert all(f"{key}=" in plan.told["Changes"] for key in changes)


@pytest.mark.parametrize(
    ("changes", "store"),
    [
        ({"publish.url": "published"}, None),
        ({"publish.url": 5}, None),
        ({"publish": None}, None),
        ({"publish.endpoint_url": "127.0.0.1"}, None),
        ({}, "published"),
        ({}, "ftp://bucket/releases"),
    ],
)
def test_a_store_that_is_none_is_told_before_anything(
    reproduced: Path, changes: dict[str, Any], store: str | None
) -> None:
    assert reproduced
    with pytest.raises(DistarError, match=r"publish|store"):
        make_plan("HEAD", None, changes, "by hand", store)


def test_it_is_shown_where_releases_go(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = reproduced / "published"
    assert main(["serve", "--dry-run"]) == 0
    assert f"Retrains publish to file://published ({published}), as params.yaml says" in capsys.readouterr().out
    assert main(["serve", "--dry-run", "--store", "file://elsewhere"]) == 0
    told = capsys.readouterr().out
    assert f"Retrains publish to file://elsewhere ({reproduced / 'elsewhere'});" in told
    assert f"The pipeline publishes to file://published ({published})" in told
    assert pipeline.main(["--dry-run"]) == 0
    shown = re.sub(r"[\s│]", "", capsys.readouterr().out)  # a cell is folded
    assert f"thereleasegoestofile://published({published})" in shown


def test_a_narrow_terminal_cuts_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project / "params.yaml", "retrain", "watch", value=WATCH)
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["serve", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "…" not in told
    tell(Console(), 4200, 8333, f"distar:{'0' * 32}")
    lines = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line]
    assert f"distar:{'0' * 32}" in lines
    assert "http://127.0.0.1:4200" in lines


def test_publish_tells_where_before_it_publishes(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(reproduced / "published")
    (reproduced / "published").write_text("a file, where the store's folder should be")
    assert command(["publish"]) == 1
    assert f"Publishing to file://published ({reproduced / 'published'})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("retrain", "schedule"), SCHEDULE | {"cron": "30 2 * *"}, "retrain.schedule.cron: got '30 2 * *'; expected"),
        (("retrain", "schedule"), SCHEDULE | {"timezone": "Berlin"}, "got 'Berlin': there is no such time zone"),
        (("retrain", "schedule"), SCHEDULE | {"jitter_seconds": -1}, "jitter_seconds: got -1"),
        (("retrain", "watch"), WATCH | {"interval_seconds": 0}, "interval_seconds: got 0"),
        (("retrain", "watch"), WATCH | {"prompts": "recent.txt"}, "prompts: got 'recent.txt'"),
        (("profile",), "tine", "there is no profile 'tine'; profiles/ has mini"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(
    project: Path, keys: tuple[str, ...], value: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project / "params.yaml", *keys, value=value)
    assert main(["serve"]) == 1
    assert expected in capsys.readouterr().err


def test_no_server_is_told(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["serve"]) == 1
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err
    assert promptset.main(["recent"]) == 1
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err
    del project


def test_a_prompt_set_has_a_name_that_events_can_hold() -> None:
    with pytest.raises(ParameterError, match="got the name 'a/b'"):
        promptset.announce("a/b")
