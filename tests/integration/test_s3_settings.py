"""What names S3 in the environment is wrong, or somebody stands before it: one line, the setting, and the remedy."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distar.__main__ import main
from distar.errors import StorageError
from distar.release.storage import open_store
from tests.integration.other_stores import Answer, Asked, OtherStore, other_store, refusal, self_signed
from tests.miniature import edit, state_licences

FINE = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
VARIABLES: dict[str, tuple[dict[str, str | None], str]] = {
    "profile": ({"AWS_PROFILE": "team-2024"}, r"profile \(team-2024\) .*AWS_PROFILE"),
    "empty profile": ({"AWS_PROFILE": ""}, "unset AWS_PROFILE"),
    "half credentials": ({"AWS_SECRET_ACCESS_KEY": None}, "half of the credentials .*AWS_SECRET_ACCESS_KEY"),
    "other half": ({"AWS_ACCESS_KEY_ID": None}, "no credentials for S3; set AWS_ACCESS_KEY_ID"),
    "empty credentials": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials for S3"),
    "line break": ({"AWS_ACCESS_KEY_ID": "a\nb"}, "the credentials hold a line break"),
    "token": ({"AWS_SESSION_TOKEN": "a\nb"}, "the credentials hold a line break"),
    "no scheme": ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, r"Invalid endpoint: 127.0.0.1:9\); .*unset AWS_ENDPOINT_URL,"),
    "for S3": ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:9"}, "unset AWS_ENDPOINT_URL_S3,"),
    "no host": ({"AWS_ENDPOINT_URL": "http://"}, "unset AWS_ENDPOINT_URL,"),
    "no end": ({"AWS_ENDPOINT_URL": "http://[::1"}, "unset AWS_ENDPOINT_URL,"),
    "blank": ({"AWS_ENDPOINT_URL": "http://h st"}, "unset AWS_ENDPOINT_URL,"),
    "scheme": ({"AWS_ENDPOINT_URL": "ftp://store"}, "unset AWS_ENDPOINT_URL,"),
    "port": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:99999"}, "unset AWS_ENDPOINT_URL,"),
    "nobody": ({}, "http://127.0.0.1:9 cannot be reached .*check AWS_ENDPOINT_URL, and the network"),
    "nobody at a path": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9/s3/"}, "cannot be reached .*check AWS_ENDPOINT_URL"),
    "Amazon": ({"AWS_ENDPOINT_URL": "", "HTTPS_PROXY": "http://127.0.0.1:9"}, "the proxy .*HTTPS_PROXY"),
    "region": ({"AWS_DEFAULT_REGION": "eu west"}, "'eu west' .*Set AWS_DEFAULT_REGION"),
    "no bundle": ({"AWS_CA_BUNDLE": ""}, "unset AWS_CA_BUNDLE"),
    "attempts": ({"AWS_MAX_ATTEMPTS": "many"}, "'many'.*unset AWS_MAX_ATTEMPTS"),
    "no attempts": ({"AWS_MAX_ATTEMPTS": ""}, "unset AWS_MAX_ATTEMPTS"),
    "zero attempts": ({"AWS_MAX_ATTEMPTS": "0"}, "Set AWS_MAX_ATTEMPTS .*to 1 or more"),
    "checksums": ({"AWS_REQUEST_CHECKSUM_CALCULATION": "never"}, "Correct AWS_REQUEST_CHECKSUM_CALCULATION"),
    "validation": ({"AWS_RESPONSE_CHECKSUM_VALIDATION": ""}, "AWS_RESPONSE_CHECKSUM_VALIDATION|cannot be reached"),
    "defaults": ({"AWS_DEFAULTS_MODE": "x"}, "unset AWS_DEFAULTS_MODE"),
    "timeout": ({"AWS_METADATA_SERVICE_TIMEOUT": "x"}, "unset AWS_METADATA_SERVICE_TIMEOUT"),
    "token file": (
        NO_KEYS | {"AWS_WEB_IDENTITY_TOKEN_FILE": "none", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"},
        "unset AWS_WEB_IDENTITY_TOKEN_FILE",
    ),
    "container": (NO_KEYS | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "x"}, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "proxy": (
        {"HTTP_PROXY": "http://u:secret@127.0.0.1:9"},
        "the proxy refuses, or cannot be reached; correct HTTP_PROXY",
    ),
    "odd proxy": ({"HTTP_PROXY": ":::"}, "unset HTTP_PROXY"),
    "a slash in a proxy's password": ({"HTTP_PROXY": "http://u:secret/9@127.0.0.1:9"}, "unset HTTP_PROXY: .*%2F for /"),
    "nothing but a proxy's password": ({"HTTP_PROXY": "secret.invalid"}, "correct HTTP_PROXY, or"),
    "user without scheme": (
        {"AWS_ENDPOINT_URL": "user:secret@127.0.0.1:9"},
        "distar release: ParameterError: AWS_ENDPOINT_URL: this holds what may be credentials",
    ),
    "user of another service": (
        {"AWS_ENDPOINT_URL_STS": "https://user:secret@127.0.0.1:9"},
        "ParameterError: AWS_ENDPOINT_URL_STS: this holds",
    ),
}
CONFIGS = {
    "no configuration": ("bad[", "Unable to parse config file: .*AWS_CONFIG_FILE"),
    "no text": ("\0\udcff", "Unable to parse config file|no credentials"),
    "endpoint": ("[default]\nendpoint_url = 127.0.0.1\n", "Invalid endpoint: 127.0.0.1.*AWS config file"),
    "section": ("[default]\ns3 = x\n", "AWS config file"),
    "addressing": ("[default]\ns3 =\n  addressing_style = x\n", "addressing style x .*AWS config file"),
    "endpoint with a user": (
        "[default]\nendpoint_url = http://u:secret@127.0.0.1:9\naws_access_key_id=a\naws_secret_access_key=b\n",
        "ParameterError: endpoint_url in the AWS config file: this holds what may be credentials",
    ),
    "endpoint with a user and no scheme": ("[default]\nendpoint_url = u:secret x@127.0.0.1\n", "endpoint: …@127"),
    "process fails": (
        "[default]\ncredential_process = sh -c 'echo secret >&2; exit 3'\n",
        "ended with the status 3; correct credential_process of the profile 'default'",
    ),
    "source's process fails": (
        "[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=p\n"
        "[profile p]\ncredential_process = sh -c 'echo secret >&2; exit 3'\n",
        "correct credential_process of the profile 'default'",
    ),
    "no process": (
        "[default]\ncredential_process = /none/such\n",
        "/none/such.*credential_process of the profile 'default' .*AWS config file",
    ),
    "no token file": (
        "[default]\nrole_arn=arn:aws:iam::1:role/x\nweb_identity_token_file=/none/such\n",
        "/none/such.*correct web_identity_token_file .*of the profile 'default'",
    ),
    "no source": ("[default]\nrole_arn=arn:aws:iam::1:role/x\n", "a role_arn needs source_profile"),
    "half a profile": ("[default]\naws_access_key_id=a\n", "half of .*set both .*in the profile 'default'"),
    "process says nothing": ("[default]\ncredential_process = true\n", "AWS config file|credential_process"),
    "process talks": ("[default]\ncredential_process = echo {}\n", "correct credential_process"),
    "no login": (
        "[default]\nsso_start_url=https://x\nsso_region=us-east-1\nsso_account_id=1\nsso_role_name=r\n",
        "run `aws sso login`",
    ),
    "no session": (
        "[default]\nsso_session=s\nsso_account_id=1\nsso_role_name=r\n"
        "[sso-session s]\nsso_start_url=https://x\nsso_region=us-east-1\n",
        "run `aws sso login`",
    ),
    "source": ("[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=nope\n", '"nope" .*AWS config file'),
    "circle": ("[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=default\n", "loop .*AWS config file"),
    "checksums": (
        "[default]\nrequest_checksum_calculation = x\naws_access_key_id=a\naws_secret_access_key=b\n",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
    ),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if re.match("AWS_|.*_proxy|REQUESTS_CA", name, re.IGNORECASE):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in FINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("distar.fetching.bucket.READ_SECONDS", 1)
    monkeypatch.setattr("distar.fetching.transport.READ_SECONDS", 1)
    monkeypatch.setattr("distar.fetching.transport.CONNECT_SECONDS", 1)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """List releases, and return what is said: one line."""
    assert main(["release", "list", "--store", "s3://bucket/releases"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"distar release: (\w*Error: s3://bucket/|ParameterError: )[^\n]*\n", err)
    assert len(err) < 1200
    return err


@pytest.mark.parametrize(("environment", "expected"), VARIABLES.values(), ids=VARIABLES)
def test_a_wrong_variable_is_named(
    environment: dict[str, str | None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    line = told(capsys)
    assert re.search(expected, line)
    assert "secret" not in line


@pytest.mark.parametrize(("text", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_a_wrong_config_file_is_named(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FINE:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_bytes(text.encode(errors="surrogateescape"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    line = told(capsys)
    assert re.search(expected, line, re.IGNORECASE)
    assert "secret " not in line
    assert "AWS_CA_BUNDLE" not in line


def test_the_profile_whose_process_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FINE:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile c]\ncredential_process = sh -c 'echo secret >&2; exit 3'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "c")
    line = told(capsys)
    assert "status 3; correct credential_process of the profile 'c' (AWS_PROFILE)" in line
    assert "secret" not in line


def test_a_wrong_parameter_is_named() -> None:
    for url in ("127.0.0.1:9", "http://[::1"):
        with pytest.raises(StorageError, match=r"unset publish\.endpoint_url"):
            open_store("s3://bucket", url)
    with pytest.raises(StorageError, match=r"check publish\.endpoint_url, and the network"):
        open_store("s3://bucket", "http://127.0.0.1:9").read("aliases/latest.json")


@contextmanager
def saying(text: bytes) -> Iterator[str]:
    """Answer whatever is said with a text; with none, stay silent."""
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            if text:
                connection.recv(65536)
                connection.sendall(text)
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in kept:
            connection.close()


SPEAKERS = {
    "another service": (b"SSH-2.0-OpenSSH\r\n", "http", "check scheme .* and port of AWS_ENDPOINT_URL"),
    "another service over TLS": (b"SSH-2.0-OpenSSH\r\n", "https", "speaks no TLS .*write http:// in AWS_ENDPOINT_URL"),
    "a TLS port": (b"HTTP/1.0 400 Bad\r\n\r\nan HTTP request to an HTTPS server", "http", r"scheme \(http or https\)"),
    "too many headers": (b"HTTP/1.0 200 OK\r\n" + b"a: b\r\n" * 1000, "http", "check scheme"),
    "endless header": (b"HTTP/1.0 200 OK\r\n" + b"a" * 100_000, "http", "check scheme"),
    "no length": (b"HTTP/1.0 200 OK\r\nContent-Length: x\r\n\r\n", "http", "no list of objects"),
    "silent": (b"", "http", "is silent .*check AWS_ENDPOINT_URL"),
    "elsewhere": (
        b"HTTP/1.0 301 Moved\r\nx-amz-bucket-region: eu-west-9\r\nContent-Length: 0\r\n\r\n",
        "http",
        "another region, eu-west-9 .*set AWS_DEFAULT_REGION",
    ),
}


@pytest.mark.parametrize(("text", "scheme", "expected"), SPEAKERS.values(), ids=SPEAKERS)
def test_what_answers_is_no_store(
    text: bytes, scheme: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with saying(text) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://{place}")
        line = told(capsys)
    assert re.search(expected, line)
    assert "network" not in line


def test_certificates_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = self_signed(tmp_path)
    with other_store((certificate, key)) as server, other_store() as plain:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert re.search("certificate of .* is not trusted .*let AWS_CA_BUNDLE name the file", told(capsys))
        for bundle in (tmp_path / "none", tmp_path, key):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            assert re.search("certificates cannot be read .*AWS_CA_BUNDLE", told(capsys))
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
            monkeypatch.setenv(name, str(certificate))
            assert main(["release", "list", "--store", "s3://bucket/releases"]) == 0
            capsys.readouterr()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("127.0.0.1", "localhost"))
        assert "the host that it is for" in told(capsys)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("https", "http"))
        assert "check scheme (http or https)" in told(capsys)
        monkeypatch.setenv("AWS_ENDPOINT_URL", plain.url.replace("http", "https"))
        assert "speaks no TLS" in told(capsys)


PROXIES = {
    "asks for credentials": (407, "the proxy asks for credentials .*HTTP_PROXY"),
    "forbids": (403, r"\(403\).*or it is the proxy's answer: name the store's host in NO_PROXY"),
    "fails": (502, "or it is the proxy's answer"),
}


@pytest.mark.parametrize(("status", "expected"), PROXIES.values(), ids=PROXIES)
def test_a_proxy_that_refuses_is_told(
    status: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with other_store() as proxy:
        proxy.instead = lambda _: Answer(status, b"<html>no</html>")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert re.search(expected, told(capsys))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
        assert "the proxy refuses, or cannot be reached" in told(capsys)


def always(answer: Answer) -> Callable[[Asked], Answer]:
    return lambda _: answer


ANSWERS = {
    "RequestTimeTooSkewed": (403, "clock differs .*set the clock"),
    "NoSuchBucket": (404, "there is no such bucket"),
    "PermanentRedirect": (301, "another region; set AWS_DEFAULT_REGION"),
    "AuthorizationHeaderMalformed": (400, "another region .*set AWS_DEFAULT_REGION"),
    "AccessDenied": (403, "may not do this"),
    "InvalidAccessKeyId": (403, "refuses the credentials"),
    "ExpiredToken": (400, "refuses the credentials"),
    "InvalidBucketName": (400, "no bucket can have this name"),
    "XAmzContentSHA256Mismatch": (400, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    "MissingContentLength": (411, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    "NotImplemented": (501, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
}


@pytest.mark.parametrize(("code", "status", "expected"), [(code, *rest) for code, rest in ANSWERS.items()], ids=ANSWERS)
def test_what_a_store_refuses_is_told(
    code: str, status: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with other_store() as server:
        server.instead = always(refusal(status, code))
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        line = told(capsys)
    assert re.search(expected, line)
    assert "network" not in line


def test_what_serves_pages_is_no_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it is listed or read: a bare 404 is no answer of S3's, so nothing is said of objects."""
    with other_store() as server:
        for answer in (Answer(404, b"<html>nothing here</html>"), Answer(404), refusal(404, "NoSuchKey")):
            server.instead = always(answer)
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            assert re.search(r"answers as no S3 does .*path is wrong; correct AWS_ENDPOINT_URL\n", told(capsys))
        server.instead = always(Answer(404, b"<html>nothing here</html>"))
        with pytest.raises(StorageError, match=r"aliases/latest\.json: .* answers as no S3 does \(404\)"):
            open_store("s3://bucket").read("aliases/latest.json")
        server.instead = always(refusal(404, "NoSuchKey"))
        assert open_store("s3://bucket").read("aliases/latest.json") is None


COMMANDS = [
    ["publish"],
    ["models", "lock"],
    ["models", "mirror"],
    ["reference"],
    ["release", "list"],
    ["release", "verify", "latest"],
    ["release", "history", "latest"],
    ["release", "promote", "latest", "production"],
    ["release", "download", "latest", "--out", "out"],
    ["audit", "show", "latest"],
    ["audit", "verify", "latest"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_it_in_one_line(command: list[str], project: Path) -> None:
    """With a profile that is not there: the client is not even made."""
    edit(project / "params.yaml", "publish", "url", value="s3://bucket/releases")
    edit(project / "params.yaml", "models", "mirror", value="s3://bucket/mirror")
    edit(project / "profiles" / "mini.yaml", "reference", "source", value="s3://bucket/models")
    state_licences(project)
    lock = project / "profiles" / "mini.lock.json"
    lock.write_text(lock.read_text().replace("file://models/reference", "s3://bucket/models"))
    environment = {**os.environ, "AWS_PROFILE": "team-2024", "DISTAR_DOWNLOADS": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "distar", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.fullmatch(r"distar \w+: StorageError: s3://[^\n]*AWS_PROFILE[^\n]*\n", done.stderr)


def test_the_store_is_not_touched_by_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_store() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert main(["release", "list", "--store", "s3://bucket/releases"]) == 0
        assert {asked.method for asked in server.asked} == {"GET"}
        assert isinstance(server, OtherStore)
