"""`distar audit export`: a release's lineage for other tools."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distar.atomic import workshop_beside
from distar.audit.evidence import Evidence
from distar.disk import refusal_told
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
        ReleaseError: the store does not hold what the manifest says.
        StorageError: the folder exists, or cannot be made, or there is no space left.
    """
    from distar.lineage.exports.ro_crate import write_crate

    statement = evidence.best.statement
    with refusal_told(folder, "give a folder that can be made"), workshop_beside(folder) as workshop:
        release = workshop / folder.name  # beside the crate, so that its files can be hard links
        download(evidence.store, evidence.release, release)
        write_crate(release, statement, folder)
    return f"{folder}: a Workflow Run RO-Crate of release {evidence.release}"


def export_run(evidence: Evidence, tracking_uri: str, experiment: str) -> str:
    """Log the release as an MLflow run; say what was done.

    Raises:
        StorageError: the tracking server refuses or cannot be reached, or no file can be written here.
    """
    from distar.lineage.exports.mlflow import log_release

    with refusal_told(Path(tempfile.gettempdir()), "set TMPDIR"), tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "release"
        download(evidence.store, evidence.release, release)
        run = log_release(evidence.best.statement, release, tracking_uri, experiment)
    return f"{tracking_uri}: run {run} of experiment {experiment} is release {evidence.release}"
