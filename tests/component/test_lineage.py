"""The record of each run, the way back from a release, and what is stated of it: complete, and without a secret."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from distar import paths
from distar.__main__ import STAGES, main
from distar.attesting import state_provenance
from distar.hashing import sha256_of
from distar.lineage.provenance import PREDICATE_TYPE
from distar.lineage.record import digests
from distar.lineage.runs import runs_behind
from distar.secrets import without_secrets
from tests.miniature import edit, git_init, record_of
from tests.property.test_secrets import ENVIRONMENT

PROFILE = Path("profiles/mini.yaml")
UNPUBLISHED = [stage for stage in STAGES if stage != "publish"]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIplanted1234567890",
    "HF_TOKEN": "hf_planted0123456789abcdefghij",
    "TEAM_PASSWORD": "correct-horse-battery",
    "GIT": "ghp_planted0123456789abcdefghijklmnop",
}


@pytest.fixture
def packaged(project: Path) -> Path:
    git_init(project)
    for stage in UNPUBLISHED:
        assert main([stage]) == 0
    return project


def dependencies(statement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}


def test_a_record_tells_all_that_the_run_had(packaged: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = record_of("train")
    assert record["git"] == {"commit": commit, "changed": [], "remote": None}
    assert record["parameters"]["params.yaml"] == {"seed": 0, "profile": "mini"}
    assert record["parameters"]["profiles/mini.yaml"]["train"]["num_steps"] == 4
    assert record["inputs"]["outputs/prompts"] == record_of("prompts")["outputs"]["outputs/prompts"]
    assert record["inputs"]["distar/training"] is None  # the miniature has no code of its own
    assert record["outputs"]["outputs/generator"]["files"] == len(
        [p for p in paths.GENERATOR.rglob("*") if p.is_file()]
    )
    assert record["seeds"] == {"seed": 0}
    assert record["environment"]["lock"] == sha256_of(Path("requirements/lock.txt"))
    assert record["environment"]["libraries"]["torch"]
    assert record["device"]["type"] == "cpu"
    assert record["device"]["class"].endswith("1 threads")
    assert record["started"] <= record["ended"]
    assert record["cost_seconds"] == record["seconds"] > 0
    assert record_of("prompts")["device"] is None


def test_a_changed_file_is_named_and_what_the_pipeline_writes_is_not(packaged: Path) -> None:
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "With metrics"], check=True)
    paths.METRICS.write_text("{}")
    Path("dvc.lock").write_text("stages: {}")
    edit(PROFILE, "package", "notice", value="another")
    Path("prompts/new.txt").write_text("untracked")
    assert main(["prompts"]) == 0
    assert record_of("prompts")["git"]["changed"] == ["profiles/mini.yaml", "prompts/new.txt"]


def test_the_runs_behind_a_release_are_found_by_content(packaged: Path) -> None:
    release = digests([paths.RELEASE])["outputs/release"]
    assert release is not None
    runs = runs_behind("outputs/release", release["sha256"])
    assert [record["stage"] for record in runs.records] == UNPUBLISHED
    assert runs.unrecorded == []

    # Another run, and back: what DVC would restore from its cache is found again by what it is
    first = {path.name for path in Path("runs/train").iterdir()}
    edit(PROFILE, "train", "reward_scale", value=0.5)
    for stage in ("train", "evaluate", "package"):
        assert main([stage]) == 0
    assert len(list(Path("runs/train").iterdir())) == 2
    again = runs_behind("outputs/release", release["sha256"])
    assert again == runs
    assert digests([paths.RELEASE])["outputs/release"] != release
    assert {path.name for path in Path("runs/train").iterdir()} > first


def test_a_stage_without_a_record_is_named(packaged: Path) -> None:
    release = digests([paths.RELEASE])["outputs/release"]
    assert release is not None
    shutil.rmtree("runs/train")
    runs = runs_behind("outputs/release", release["sha256"])
    assert runs.unrecorded == ["train"]
    assert {record["stage"] for record in runs.records} == {*UNPUBLISHED} - {"train"}
    shutil.rmtree("runs")
    assert runs_behind("outputs/release", release["sha256"]).unrecorded == UNPUBLISHED
    assert state_provenance(paths.RELEASE)["predicate"]["buildDefinition"]["internalParameters"]["runs"] == []


def test_the_statement_is_valid_provenance(packaged: Path) -> None:
    statement = state_provenance(paths.RELEASE)
    message = ParseDict(statement, statement_pb2.Statement())  # pyright: ignore[reportAttributeAccessIssue]
    Statement(message.subject, message.predicate_type, statement["predicate"]).validate()
    ParseDict(statement["predicate"], provenance_pb2.Provenance())  # pyright: ignore[reportAttributeAccessIssue]
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"][0] == {
        "name": "manifest.json",
        "digest": {"sha256": sha256_of(paths.RELEASE / "manifest.json")},
    }
    assert state_provenance(paths.RELEASE) == statement  # the same runs, the same words


def test_the_statement_names_everything_that_the_release_was_made_from(packaged: Path) -> None:
    statement = state_provenance(paths.RELEASE)
    materials = dependencies(statement)
    card = json.loads(paths.PROMPTS_CARD.read_text())
    assert materials["prompts/train"]["digest"]["sha256"] == card["train"]["sha256"]
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert materials[f"reference/{unet}"]["digest"]["sha256"] == sha256_of(paths.REFERENCE / unet)
    assert materials[f"reference/{unet}"]["uri"] == f"file://models/reference/{unet}"
    assert materials["rewards/judge/model.safetensors"]["uri"] == "file://models/judge/model.safetensors"
    assert any(name.startswith("initial_generator/") for name in materials)
    assert materials["environment"]["digest"]["sha256"] == sha256_of(Path("requirements/lock.txt"))
    assert materials["code"]["annotations"] == {"stages": UNPUBLISHED, "changed": []}
    external = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert (external["profile"], external["seed"]) == ("mini", 0)
    assert external["parameters"]["train"]["num_steps"] == 4


def test_no_secret_lands_in_anything_written_or_printed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole chain, with secrets in the environment, the remote, names of changed files and an address."""
    planted = {**ENVIRONMENT, **PLANTED}
    for name, secret in planted.items():
        monkeypatch.setenv(name, secret)
    tokens = [PLANTED["HF_TOKEN"], PLANTED["GIT"], "xoxb-123456789012-aBcDeFgHiJkL", "AKIAIOSFODNN7EXAMPLE"]
    git_init(project)
    remote = f"https://robot:{PLANTED['GIT']}@example.org/team/project.git"
    subprocess.run(["git", "remote", "add", "origin", remote], check=True)
    before = {path for path in project.rglob("*") if path.is_file()}
    named = [f"changed-{token}" for token in tokens] + [f"{PLANTED['TEAM_PASSWORD']} password=Zx81-hidden-Zx81"]
    for name in named:
        (project / name).touch()
    for stage in STAGES:
        assert main([stage]) == 0
    assert main(["audit", "export", "latest", "--openlineage", "events.jsonl"]) == 0
    assert main(["audit", "export", "latest", "--ro-crate", "crate"]) == 0
    assert main(["audit", "show", "latest", "--html", "page.html"]) == 0
    assert main(["audit", "show", "latest"]) == 0
    assert main(["audit", "export", "latest", "--openlineage", f"https://{PLANTED['GIT']}@localhost:1"]) == 1
    written = {path for path in project.rglob("*") if path.is_file()} - before - {project / name for name in named}
    assert {"runs", "published", "crate"} <= {path.relative_to(project).parts[0] for path in written}
    contents = {path.name: path.read_bytes() for path in written} | {"printed": "".join(capfd.readouterr()).encode()}
    records = b"".join(content for path, content in contents.items() if path.endswith(".json"))
    assert b"https://example.org/team/project.git" in records
    assert b"[secret: PAT]" in records  # the same password as the team's
    hidden = ["Zx81-hidden-Zx81", *tokens, *planted.values(), *(json.dumps(one)[1:-1] for one in planted.values())]
    for name, content in contents.items():
        for secret in hidden:
            assert secret.encode() not in content, (name, secret)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:pass@host/path", "https://host/path"),
        ("s3://key:secret@bucket/prefix", "s3://bucket/prefix"),
        ("https://host/f?X-Amz-Signature=abc123&part=2", "https://host/f?X-Amz-Signature=…&part=2"),
        ("git@host:team/project.git", "git@host:team/project.git"),
        ("a prompt about a token of love", "a prompt about a token of love"),
        ("id AKIAIOSFODNN7EXAMPLE.", "id [secret: AWS key]."),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----", "[secret: key]"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_taken_out(text: str, clean: str) -> None:
    assert without_secrets({"a": [text, {text: 1}]}, {}) == {"a": [clean, {clean: 1}]}


def test_secrets_of_the_environment_are_taken_out_by_value() -> None:
    environment = {
        "MY_API_KEY": "swordfish-1",
        "DB_PASSWORD": "swordfish-1-longer",
        "TOKEN": "yes",
        "HOME": "/home/user",
    }
    text = "swordfish-1-longer swordfish-1 yes /home/user"
    assert without_secrets(text, environment) == "[secret: DB_PASSWORD] [secret: MY_API_KEY] yes /home/user"
