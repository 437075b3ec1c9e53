"""A retrain publishes to S3 through an outage: repeated within bounds, and never half there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

import flows.retrain
from distar.release.releases import alias_names, release_ids
from distar.release.storage import Store, open_store
from flows.commands import CommandError
from tests.integration.conftest import S3Server
from tests.integration.faulty import Fault, Faulty, faulty_before
from tests.miniature import edit


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Faulty]:
    with faulty_before(s3.url) as faulty:
        yield faulty


@pytest.fixture
def store(reproduced: Path, faulty: Faulty, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Let the project publish to S3, through the faulty server; return the store behind it."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    edit(reproduced / "params.yaml", "publish", "url", value=f"s3://{bucket}/releases")
    edit(reproduced / "params.yaml", "publish", "endpoint_url", value=faulty.url)
    return open_store(f"s3://{bucket}/releases", s3.url)


@flow
def publishing() -> str:
    return flows.retrain.publish.with_options(retry_delay_seconds=0)(Path.cwd())


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
