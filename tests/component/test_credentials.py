"""One rule for credentials: where a parameter, a change or an argument holds some, it is refused and not repeated."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distar.__main__ import main
from distar.credentials import refuse_credentials, refuse_more_than_an_address
from distar.errors import DistarError, ParameterError
from distar.params import load_params
from flows.changes import add_set_option, changed_parameters
from tests.miniature import REPOSITORY, edit, git_init
from tests.property.test_secrets import INNOCENT, SHAPES

PROFILE = Path("profiles/mini.yaml")
HUB = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("file", "place", "value", "secret"),
    [
        ("params.yaml", "models.mirror", "s3://key:hidden81@bucket/prefix", "hidden81"),
        ("params.yaml", "models.mirror", "s3://bucket/prefix?X-Amz-Signature=hidden81", "hidden81"),
        ("params.yaml", "publish.url", "s3://bucket/prefix#hidden81", "hidden81"),
        ("params.yaml", "retrain.watch", {"prompts": "file://x?token=hidden81"}, "hidden81"),
        ("params.yaml", "publish.trusted_keys", ["keys/one.pub", HUB], HUB),
        (str(PROFILE), "reference.source", f"hf://user:{HUB}@owner/name@" + "0" * 40, HUB),
        (str(PROFILE), "prompts.train.source", "https://user:p@ss/w0rd81@host/prompts.txt", "w0rd81"),
        (str(PROFILE), "prompts.train.licence", f"see https://host/licence?access_token={HUB}", HUB),
        (str(PROFILE), "package.notice", f"made with {HUB}", HUB),
        (str(PROFILE), "package.licences", {f"s3://a:{HUB}@bucket/x": "mit"}, HUB),
    ],
)
def test_credentials_in_any_parameter_are_refused(
    file: str, place: str, value: Any, secret: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project / file, *place.split("."), value=value)
    assert main(["prompts"]) == 1
    told = capsys.readouterr().err
    assert f"{file}: " in told
    assert place in told
    assert "credentials" in told
    assert "AWS_PROFILE" in told
    assert secret not in told
    assert not Path("outputs").exists()


def test_a_variable_s_secret_in_a_parameter_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_PASSWORD", "correct-horse-battery")
    edit(PROFILE, "package", "notice", value="by correct-horse-battery")
    with pytest.raises(ParameterError, match=r"package\.notice: .*TEAM_PASSWORD") as caught:
        load_params()
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_refused(shape: str) -> None:
    text, secret = SHAPES[shape]
    with pytest.raises(ParameterError) as caught:
        refuse_credentials({"a": [{"b": text}]}, "params.yaml")
    assert "params.yaml: a.0.b: " in str(caught.value)
    assert secret not in str(caught.value)
    with pytest.raises(ParameterError):
        refuse_credentials({"a": {text: 1}}, "params.yaml")


@pytest.mark.parametrize("text", INNOCENT)
def test_ordinary_texts_pass(text: str, project: Path) -> None:
    edit(PROFILE, "package", "notice", value=text)
    assert load_params().profile.package.notice == text


@pytest.mark.parametrize("profile", sorted(path.stem for path in (REPOSITORY / "profiles").glob("*.yaml")))
def test_shipped_profiles_pass(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    load_params(profile=profile)


@pytest.mark.parametrize(
    "url", ["file://a folder/with#sign?", "s3://bucket/prefix", "https://host:8333", "file:///x@y", "s3://bucket/a@b"]
)
def test_addresses_pass(url: str) -> None:
    refuse_more_than_an_address(url, "--store")


@pytest.mark.parametrize("url", ["user:hidden81@host", "user@host:1/x", "//u:hidden81@host", "u:hidden81/x@host/x"])
def test_a_user_needs_no_scheme(url: str) -> None:
    with pytest.raises(ParameterError, match="--store: this holds what may be credentials") as caught:
        refuse_more_than_an_address(url, "--store")
    assert "hidden81" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["release", "list", "--store", "s3://key:hidden81@bucket/prefix"],
        ["release", "list", "--store", "s3://bucket/prefix?hidden81"],
        ["audit", "show", "latest", "--store", "https://user:p@ss/hidden81@host/x"],
        ["audit", "export", "latest", "--openlineage", "https://user:hidden81@host"],
        ["audit", "export", "latest", "--mlflow", "mysql+pymysql://user:p@ss/hidden81@host/db"],
        ["audit", "export", "latest", "--mlflow", "https://host/?token=hidden81"],
        ["release", "sign", "latest", "--key", "-----BEGIN PRIVATE KEY-----\nhidden81"],
    ],
)
def test_credentials_in_arguments_are_refused(
    arguments: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "ParameterError" in told.err
    assert "hidden81" not in told.err + told.out


@pytest.mark.parametrize("scheme", ["https://", ""])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT"])
def test_credentials_in_endpoint_variables_are_refused(
    name: str, scheme: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, f"{scheme}user:hidden81@host")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if name == "HF_ENDPOINT":
        source = "hf://owner/name@" + "0" * 40
        edit(PROFILE, "initial_generator", "source", value=source)
        edit(PROFILE, "package", "licences", source, value="mit")
        edit(PROFILE, "package", "licences", value=_licences_without("file://models/initial_generator"))
        arguments = ["models", "lock"]
    else:
        arguments = ["release", "list", "--store", "s3://bucket/prefix"]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert f"{name}: this holds what may be credentials" in told
    assert "hidden81" not in told


def _licences_without(source: str) -> dict[str, str]:
    from ruamel.yaml import YAML

    licences = YAML(typ="safe").load(PROFILE)["package"]["licences"]
    return {name: value for name, value in licences.items() if name != source}


def test_credentials_in_changes_are_refused(project: Path) -> None:
    git_init(project)
    for changes in (
        {"publish.url": "s3://key:hidden81@bucket"},
        {"package.notice": f"by {HUB}"},
        {"train.divergence": {"kind": [HUB]}},
    ):
        with pytest.raises(ParameterError, match="changes: ") as caught:
            changed_parameters("HEAD", changes)
        assert "hidden81" not in str(caught.value)
        assert HUB not in str(caught.value)


def test_credentials_in_set_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_set_option(parser)
    for value in ("publish.url=s3://key:hidden81@bucket", f"package.notice='{HUB}'", f"a={{b: [{HUB}", f"{HUB}"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--set", value])
        told = capsys.readouterr().err
        assert "hidden81" not in told
        assert HUB not in told


def test_an_error_repeats_no_secret() -> None:
    assert str(DistarError(f"got {HUB}")) == "got [secret: hub token]"


def test_a_traceback_at_the_end_repeats_no_secret(tmp_path: Path) -> None:
    program = f"""
import distar.__main__ as command
def fail(options): raise RuntimeError("https://user:p@ss/hidden81@host {HUB}")
command._run_stage = fail
import sys; sys.argv = ["distar", "prompts"]
command.run()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "RuntimeError: https://host [secret: hub token]" in result.stderr
    assert "hidden81" not in result.stderr.split("RuntimeError:")[1]


def test_what_flows_log_holds_no_secret() -> None:
    program = f"""
import logging, flows, io
stream = io.StringIO()
logging.basicConfig(stream=stream, level=logging.INFO, force=True)
log = logging.getLogger("any")
log.info("told %s and %d", "https://user:p@ss/hidden81@host", 3)
try:
    raise RuntimeError("{HUB}")
except RuntimeError as error:
    log.exception("failed: %r", error)
print(stream.getvalue())
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "told https://host and 3" in result.stdout
    assert "RuntimeError: [secret: hub token]" in result.stdout
    assert HUB not in result.stdout
    assert json.dumps("hidden81")[1:-1] not in result.stdout
