"""Fixtures: a miniature project, and stages run in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.miniature import git, make_project, run_dvc, save_models, with_pipeline

# Before Prefect is imported: no telemetry, and no log lines from its server once pytest has closed the streams.
os.environ |= {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}
# What tests start writes bytecode, as it does for users, beside code that stages depend on.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_LONG = {"flow", "integration", "invariant"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run folders whose files take minutes first: begun last, one of them would keep one worker alone."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)


@pytest.fixture(scope="session")
def miniature_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    save_models(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, miniature_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a miniature project and work in it."""
    folder = make_project(tmp_path / "project", miniature_models)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def reproduced_once(tmp_path_factory: pytest.TempPathFactory, miniature_models: Path) -> Path:
    """Run a miniature project end to end and commit it."""
    folder = with_pipeline(make_project(tmp_path_factory.mktemp("dvc") / "project", miniature_models))
    run_dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Reproduce")
    return folder


@pytest.fixture
def reproduced(reproduced_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project that was run and committed, and work in the copy."""
    folder = shutil.copytree(reproduced_once, tmp_path / "reproduced", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_flush_denormal(False)  # stages set it for the whole process, and Hypothesis refuses to draw numbers then
