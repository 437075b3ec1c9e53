"""What is served, described without a server: schedules, events, parameters; what is refused before anything starts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from distar.errors import ParameterError
from distar.shared_params import load_shared
from flows import promptset
from flows.deployments import deployments, main
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
    assert retrain.parameters["changes"] == {"publish.url": "s3://bucket/releases", "publish.endpoint_url": None}
    assert watch.parameters["store"] == "s3://bucket/releases"


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
