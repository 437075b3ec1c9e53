"""What the Makefile, the image, the compose file and prefect.yaml start exists, and is what the flows serve."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from rich.console import Console

from distar.shared_params import load_shared
from flows import credentials, server
from flows.deployments import deployments, main
from flows.events import PROMPTSET_PUBLISHED, REWARD_REGRESSED
from tests.miniature import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
OF_THE_SYSTEM = {"tini", "git", "apt-get", "install", "groupadd", "useradd", "sh", "rm", "touch", "uv"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Return every command that starts something, with the file that it stands in."""
    for line in MAKEFILE.splitlines():
        if line.startswith("\t") and "$(" not in line:
            yield "Makefile", shlex.split(line.strip().lstrip("@").removeprefix("exec "))
    for line in DOCKERFILE.splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword in ("CMD", "ENTRYPOINT"):
            yield "Dockerfile", json.loads(rest)
        if keyword == "RUN":
            yield from (("Dockerfile", shlex.split(part)) for part in rest.split("&&"))
    for service in COMPOSE["services"].values():
        yield "compose.yaml", service["command"]
        if "healthcheck" in service:
            yield "compose.yaml", service["healthcheck"]["test"][1:]


@pytest.mark.parametrize(
    ("file", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_command_exists(file: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    del file
    monkeypatch.chdir(REPOSITORY)
    program, *arguments = words
    if program == "python" and arguments[0] == "-m":
        assert find_spec(arguments[1])
        if arguments[1] == "flows.deployments":
            assert main([*arguments[2:], "--dry-run"]) == 0
    elif program == "python":
        compile(arguments[1], program, "exec")
    elif program not in OF_THE_SYSTEM:
        assert shutil.which(Path(program).name, path=Path(sys.executable).parent), words


def test_packages_of_the_image_are_the_locked_ones() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert "--no-deps --require-hashes -r requirements/lock.txt" in DOCKERFILE
    assert "build-essential" not in last_stage
    assert "pip install" not in last_stage
    assert re.search(r"^USER [1-9]", last_stage, re.MULTILINE)


def test_image_asks_for_no_user_that_it_knows_and_for_no_folder_of_roots() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    (settings,) = (line for line in last_stage.splitlines() if line.startswith("ENV "))
    environment = dict(word.split("=", 1) for word in shlex.split(settings)[1:])
    assert environment["HOME"] == "/tmp", "of whoever owns the clone"  # noqa: S108  each container has its own
    assert environment["USER"], "DVC asks for a name, and finds none for a user that /etc/passwd does not hold"
    pages = Path(environment["PREFECT_UI_STATIC_DIRECTORY"])
    assert pages.is_relative_to("/tmp"), "Prefect's server writes its pages"  # noqa: S108


def test_services_of_the_compose_file_run_one_image_and_listen_on_the_loopback_alone() -> None:
    services = COMPOSE["services"].values()
    for service in services:
        assert service["image"] == "distar:0.1.0"
        assert service["pull_policy"] == "never"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert sum("build" in service for service in services) == 1, "two builds of one tag at once fail"


def template() -> dict[str, str]:
    lines = (REPOSITORY / "deploy" / "compose.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_compose_asks_for_every_credential_of_its_template() -> None:
    text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(DISTAR_\w+):\?[^}]+\}", text)) == {*template()}  # `:?` refuses an empty one too
    assert set(re.findall(r"\$\{(DISTAR_\w+)", text)) == {*template(), "DISTAR_USER"}
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("AUTH|SECRET|KEY", name)
            assert bool(secret) == str(value).startswith("${"), f"{name} stands in the file"


def test_compose_starts_nothing_before_credentials_are_checked() -> None:
    services = dict(COMPOSE["services"])
    checked = services.pop("credentials")
    assert checked["restart"] == "no"
    assert {*checked["command"][3:]} == {*checked["environment"]} == {*template()}
    first = {name for name, one in services.items() if "credentials" in one["depends_on"]}
    for one in services.values():
        assert {*one["depends_on"]} & {"credentials", *first}
        if "credentials" in one["depends_on"]:
            assert one["depends_on"]["credentials"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", [None, *template()])
@pytest.mark.parametrize(
    "value", ["", " ", "change-me", "change-me-too", "Change_Me", '"change-me"', "CHANGEME-0123456789abcdef", "short"]
)
def test_compose_refuses_known_credentials(name: str | None, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = dict.fromkeys(template(), "0123456789abcdef01234567")
    with pytest.MonkeyPatch.context() as patch:
        for key, kept in own.items():
            patch.setenv(key, value if name in (None, key) else kept)
        assert credentials.main([*own]) == 1
    told = capsys.readouterr().err
    assert all((key in told) == (name in (None, key)) for key in own)
    assert told.count("\n") == 1


def test_compose_refuses_its_template_as_it_is() -> None:
    module = COMPOSE["services"]["credentials"]["command"][1:]

    def run(values: dict[str, str]) -> int:
        environment = {**os.environ, **values}
        return subprocess.run([sys.executable, *module], cwd=REPOSITORY, env=environment, check=False).returncode

    assert run(template()) == 1
    assert run(dict.fromkeys(template(), "0123456789abcdef01234567")) == 0


def test_compose_protects_what_make_server_protects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / server.ROOT).mkdir(parents=True)
    composed = COMPOSE["services"]["s3"]
    of_paths_and_ports = ("-dir=", "-s3.config=", "-ip=", "-ip.bind=")
    given = {flag for flag in server.seaweedfs(8333)[2:] if not flag.startswith(of_paths_and_ports)}
    assert {flag for flag in given if not re.fullmatch(r"-\w+\.port(\.grpc)?=[1-9]\d*", flag)} <= {*composed["command"]}
    assert {"-disableHttp", "-filer.disableHttp"} <= given
    assert {name for name in composed["environment"] if name.startswith("WEED_JWT")} == {*server.seaweedfs_keys()}


def test_programs_of_the_compose_file_are_in_the_image() -> None:
    lock = (REPOSITORY / "requirements" / "lock.txt").read_text(encoding="utf-8")
    programs = {service["command"][0] for service in COMPOSE["services"].values()} - OF_THE_SYSTEM - {"python"}
    assert programs == {"prefect", "weed"}
    for package in distributions():
        if any(file.parent.name == "bin" and file.name in programs for file in package.files or []):
            assert f"\n{package.name}==" in lock, f"the image has none of {package.name}"


@pytest.fixture(scope="module")
def of_teams() -> list[dict[str, Any]]:
    told = StringIO()
    configured, actions = _load_deploy_configs_and_actions(REPOSITORY / "prefect.yaml", console=Console(file=told))
    assert told.getvalue() == ""
    assert [list(step) for step in actions["pull"]] == [["prefect.deployments.steps.set_working_directory"]]
    return configured


def test_teams_deploy_what_one_box_serves(of_teams: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    served = {one.name: one for one in deployments(load_shared(), None)}
    names = [f"{name}{pool}" for pool in ("", "-docker", "-kubernetes") for name in served]
    assert [one["name"] for one in of_teams] == names
    for one in of_teams:
        same = served[one["name"].partition("-")[0]]
        assert one["description"] == same.description
        assert one["entrypoint"] == same.entrypoint
        path, _, function = one["entrypoint"].partition(":")
        flow = getattr(import_module(path.removesuffix(".py").replace("/", ".")), function)
        given = [one, *one["schedules"], *one.get("triggers", [])]
        names = {name for entry in given for name in entry.get("parameters", {})}
        assert names <= set(inspect.signature(flow.fn).parameters)


def test_teams_retrain_on_the_projects_events(of_teams: list[dict[str, Any]]) -> None:
    for one in of_teams:
        events = [event for trigger in one.get("triggers", []) for event in trigger["expect"]]
        assert events == ([PROMPTSET_PUBLISHED, REWARD_REGRESSED] if one["name"].startswith("retrain") else [])


def test_job_variables_are_those_of_the_pools(of_teams: list[dict[str, Any]]) -> None:
    known = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    templates = {
        kind: worker["default_base_job_configuration"]
        for collection in json.loads((known / "aggregate-worker-metadata.json").read_text(encoding="utf-8")).values()
        for kind, worker in collection.items()
    }
    templates["kubernetes"] = json.loads((REPOSITORY / "deploy" / "kubernetes.json").read_text(encoding="utf-8"))
    for one in of_teams:
        pool = one["work_pool"]
        kind = pool["name"].removeprefix("distar-")
        assert set(pool["job_variables"]) <= set(templates[kind]["variables"]["properties"])
    for template in templates["kubernetes"], templates["docker"]:
        used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
        assert used == set(template["variables"]["properties"])
