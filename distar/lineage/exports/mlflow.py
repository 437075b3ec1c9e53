"""A release as a run of an MLflow tracking server: parameters, metrics, tags and the files that people look at."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distar.documents import read_json, validated
from distar.errors import DistarError, ReleaseError, StorageError
from distar.lineage.provenance import Statement
from distar.lineage.stated import Stated, commit_of, flattened
from distar.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RELEASE_TAG = "distar.release"


def log_release(statement: Statement, release_folder: Path, tracking_uri: str, experiment: str) -> str:
    """Log a release as one run and return the run's id; a release that is there already is not logged again.

    The weights stay in the release's store. What an interrupted export left is completed.

    Raises:
        DistarError: MLflow is not installed.
        ReleaseError: the statement holds no run, or the release's files are not those that it states.
        StorageError: the tracking server cannot be reached or refuses, or the database's driver is not installed.
    """
    if find_spec("mlflow") is None:
        raise DistarError("MLflow is not installed; run `pip install 'distar[mlflow]'`")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    statement = without_secrets(statement)
    stated = Stated.read_with_runs(statement)
    files = stated.files_in(release_folder)
    try:
        client = MlflowClient(tracking_uri)
        run = _run_of(client, stated, experiment)
        if run.info.status != "FINISHED":
            _fill(client, run.info.run_id, stated, statement, files)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise StorageError(
            f"MLflow at {tracking_uri} did not take the release: {error}; see "
            "whether it is up, its address right and the MLFLOW_TRACKING_… variables set that it wants; then repeat"
        ) from error
    return run.info.run_id


def _run_of(client: MlflowClient, stated: Stated, experiment: str) -> Run:
    """Find the release's run, or begin it."""
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment)
    found = client.search_runs([experiment_id], f"tags.`{RELEASE_TAG}` = '{stated.release_id}'")
    if found:
        return found[0]
    name, started = f"{stated.profile} {stated.release_id[:16]}", _milliseconds(stated.started)
    return client.create_run(experiment_id, start_time=started, tags=_tags(stated), run_name=name)


def _fill(client: MlflowClient, run_id: str, stated: Stated, statement: Statement, files: dict[str, Path]) -> None:
    from mlflow.entities import Metric, Param

    ended = _milliseconds(stated.ended)
    values = {"profile": stated.profile, "seed": stated.seed, **flattened(stated.parameters)}
    client.log_batch(run_id, params=[Param(name, _shown(value)) for name, value in values.items()])
    figures = {**_metrics(files["metrics.json"]), "cost_seconds": sum(run["cost_seconds"] for run in stated.runs)}
    client.log_batch(run_id, metrics=[Metric(name, value, ended, 0) for name, value in figures.items()])
    for name, path in files.items():
        if "/" not in name:  # card, report and figures; the networks lie in folders
            client.log_artifact(run_id, str(path))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statement.json"
        path.write_text(json.dumps(statement, indent=2) + "\n", encoding="utf-8")
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED", ended)


def _tags(stated: Stated) -> dict[str, str]:
    flow_runs = dict.fromkeys(run["flow_run"] for run in stated.runs if run["flow_run"])
    tags = {
        RELEASE_TAG: stated.release_id,
        "distar.profile": stated.profile,
        "distar.licence": stated.licence,
        "distar.flow_run": " ".join(flow_runs),
        "distar.unrecorded": " ".join(stated.unrecorded),
        "mlflow.source.git.commit": commit_of(stated.runs[-1]) or "",
    }
    return {name: value for name, value in tags.items() if value}


def _metrics(path: Path) -> dict[str, float]:
    document = read_json(path.read_bytes(), path.name, ReleaseError)
    figures = flattened(validated(dict[str, Any], document, path.name, ReleaseError))
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
