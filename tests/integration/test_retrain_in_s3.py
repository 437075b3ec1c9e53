"""A retrain publishes to S3 and promotes there through an outage: repeated within bounds, and never half done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

import flows.retrain
from distar import paths
from distar.errors import StorageError
from distar.release.releases import alias_names, history, read_alias, release_ids
from distar.release.storage import Store, open_store
from flows.commands import CommandError
from flows.retrain import Outcome
from tests.integration.conftest import S3Server
from tests.integration.faulty import Fault, Faulty, faulty_before
from tests.miniature import edit, git, with_gain

BRANCH = "retrain/outage"


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Faulty]:
    with faulty_before(s3.url) as faulty:
        yield faulty


@pytest.fixture
def store(reproduced: Path, faulty: Faulty, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Let the project publish to S3, through the faulty server; return the store behind it."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with_gain(reproduced, num_steps=4)
    git(reproduced, "commit", "-qam", "A gate that looks at the reward alone")
    edit(reproduced / "params.yaml", "publish", "url", value=f"s3://{bucket}/releases")
    edit(reproduced / "params.yaml", "publish", "endpoint_url", value=faulty.url)
    return open_store(f"s3://{bucket}/releases", s3.url)


@flow
def publishing() -> str:
    return flows.retrain.publish.with_options(retry_delay_seconds=0)(Path.cwd())


def published_with_a_gain() -> str:
    """Publish the project's release; return it, and let the project's own copy say from then on that it gained."""
    release, scores = publishing(), paths.RELEASE / paths.SCORES.name
    rows = list(csv.DictReader(io.StringIO(scores.read_text(), newline="")))
    for row in rows:
        row["generator_preference"] = str(float(row["initial_preference"]) + 1)
    scores.unlink()  # it is a link into DVC's cache
    with scores.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return release


@flow
def deciding(release: str, url: str, endpoint_url: str) -> Outcome:
    changes = {"publish.url": url, "publish.endpoint_url": endpoint_url}
    plan = flows.retrain.make_plan("HEAD", None, changes, "an outage")
    return flows.retrain.decide.with_options(retry_delay_seconds=0)(plan, Path.cwd(), release, BRANCH)


def test_an_outage_is_waited_for(store: Store, faulty: Faulty) -> None:
    faulty.faults.append(Fault("PUT", "/blobs/", "answer", times=1, status=503, code="ServiceUnavailable"))
    faulty.faults.append(Fault("PUT", f"{store.url.removeprefix('s3:/')}/releases/", "answer", times=1, status=503))
    assert release_ids(store) == [] == alias_names(store)
    assert [publishing()] == release_ids(store)
    assert [fault.times for fault in faulty.faults] == [0, 0]
    assert alias_names(store) == []  # a candidate takes no alias, `latest` neither


def test_an_outage_that_lasts_fails_clearly_and_leaves_no_release(store: Store, faulty: Faulty) -> None:
    manifest = f"{store.url.removeprefix('s3:/')}/releases/"
    faulty.faults.append(Fault("PUT", manifest, "answer", times=100, status=503))
    with pytest.raises(CommandError, match=r"StorageError: .*") as caught:
        publishing()
    assert "distar publish" in str(caught.value)
    assert faulty.faults[0].times == 97  # the first try and two more
    assert release_ids(store) == []
    faulty.faults.clear()
    assert [publishing()] == release_ids(store)


@pytest.mark.parametrize(
    ("method", "alias", "kind"),
    [
        ("GET", "champion", "answer"),
        ("PUT", "champion", "answer"),
        ("PUT", "champion", "lose"),
        ("PUT", "latest", "answer"),
    ],
)
def test_an_outage_while_it_promotes_is_waited_for(
    store: Store, faulty: Faulty, method: str, alias: str, kind: Literal["answer", "lose"]
) -> None:
    """Whatever cannot be read or written, or was written unknown to the client: it is promoted, and once."""
    release = published_with_a_gain()
    faulty.faults.append(Fault(method, f"/aliases/{alias}.json", kind, times=1, status=503))
    assert deciding(release, store.url, faulty.url).promoted
    assert faulty.faults[0].times == 0
    assert [one.to_release for one in history(store, "champion")] == [release]
    assert read_alias(store, "latest").release == release


def test_an_outage_that_outlasts_the_promotion_promotes_nothing_and_can_be_repeated(
    store: Store, faulty: Faulty, reproduced: Path
) -> None:
    release = published_with_a_gain()
    faulty.faults.append(Fault("GET", "/aliases/champion.json", "answer", times=100, status=503))
    with pytest.raises(StorageError):
        deciding(release, store.url, faulty.url)
    assert faulty.faults[0].times == 97
    assert alias_names(store) == []
    faulty.faults.clear()
    assert deciding(release, store.url, faulty.url).promoted
    assert git(reproduced, "for-each-ref", "--format=%(refname:short)", "refs/heads/retrain").split() == [BRANCH]
