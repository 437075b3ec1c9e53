"""`distar audit export`: a release's lineage for other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distar.audit.evidence import Evidence
from distar.release.releases import download


def export_events(evidence: Evidence, target: str) -> str:
    """Send OpenLineage events to a file or a server; say what was done.

    Raises:
        StorageError: the file cannot be written, or the server refuses or cannot be reached.
    """
    from distar.lineage.exports.openlineage import emit, events_of

    events = events_of(evidence.best.statement)
    emit(events, target)
    return f"{target}: {len(events)} events of release {evidence.release}"


def export_crate(evidence: Evidence, folder: Path) -> str:
    """Write a Workflow Run RO-Crate with the release's files; say what was done.

    Raises:
        ReleaseError: the folder exists, or the store does not hold what the manifest says.
    """
    from distar.lineage.exports.ro_crate import write_crate

    statement = evidence.best.statement
    with _downloaded(evidence, folder.absolute().parent) as release:  # beside it, so that files can be hard links
        write_crate(release, statement, folder)
    return f"{folder}: a Workflow Run RO-Crate of release {evidence.release}"


def export_run(evidence: Evidence, tracking_uri: str, experiment: str) -> str:
    """Log the release as an MLflow run; say what was done.

    Raises:
        StorageError: the tracking server refuses or cannot be reached, or MLflow is not installed.
    """
    from distar.lineage.exports.mlflow import log_release

    with _downloaded(evidence, None) as release:
        run = log_release(evidence.best.statement, release, tracking_uri, experiment)
    return f"{tracking_uri}: run {run} of experiment {experiment} is release {evidence.release}"


@contextmanager
def _downloaded(evidence: Evidence, parent: Path | None) -> Iterator[Path]:
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".release-") as folder:
        download(evidence.store, evidence.release, Path(folder) / "release")
        yield Path(folder) / "release"
