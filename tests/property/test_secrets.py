"""The redaction: what it finds, in every form; what it leaves alone; that twice is as once; that it is fast."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distar.secrets import lines_without_secrets, without_secrets
from tests.miniature import REPOSITORY

# Each shape, with what must not remain of it.
SHAPES = {
    "password with @ and /": ("https://user:p@ss/w0rd@host/path", "p@ss"),
    "password after a port's digits": ("postgresql+psycopg2://u:8080/x@host:5432/db", "8080/x"),
    "password without a user": ("redis://:swordfish@cache/0", "swordfish"),
    "token as the user": ("https://Zx81tokenZx81@host/path", "Zx81token"),
    "percent-encoded URL": ("next=https%3A%2F%2Fuser%3Apass81word%40host%2Fx", "pass81word"),
    "signed query": ("https://host/f?X-Amz-Signature=abc123&X-Amz-Credential=AK%2F1&part=2", "abc123"),
    "Azure SAS": ("https://a.blob.core.windows.net/c?sv=2020&sig=Ab%2Bcd%3D", "Ab%2Bcd"),
    "Azure account key": ("AccountName=x;AccountKey=Zm9vYmFyMTIzNDU2Nzg5MA==;EndpointSuffix=y", "Zm9vYmFy"),
    "AWS key id": ("id AKIAIOSFODNN7EXAMPLE.", "AKIA"),
    "AWS secret key": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
    "hub": ("hf_" + "aB3" * 11, "aB3aB3"),
    "GitHub": ("ghp_" + "aB3" * 12, "aB3aB3"),
    "GitHub, fine-grained": ("github_pat_" + "aB3_" * 12, "aB3_aB3"),
    "GitLab": ("glpat-" + "aB3-" * 5, "aB3-aB3"),
    "Slack": ("xoxb-123456789012-aBcDeFgHiJkL", "aBcDeFg"),
    "Slack webhook": ("https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX", "XXXX"),
    "OpenAI": ("sk-proj-" + "aB3_" * 8, "aB3_aB3"),
    "Anthropic": ("sk-ant-api03-" + "aB3-" * 8, "aB3-aB3"),
    "W&B": ("WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567", "0123456789abcdef"),
    "W&B in netrc": ("machine api.wandb.ai login user password " + "0123456789abcdef" * 2, "0123456789abcdef"),
    "Google": ("AIzaSy" + "aB3_" * 9, "aB3_aB3"),
    "JWT": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "dozjgNry"),
    "npm": ("npm_" + "aB3" * 12, "aB3aB3"),
    "PyPI": ("pypi-AgEIcHlwaS5vcmcCJDU3", "AgEIcHlw"),
    "Stripe": ("sk_live_" + "aB3" * 8, "aB3aB3"),
    "private key": ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----", "MHcCAQ"),
    "private key, cut off": ("-----BEGIN OPENSSH PRIVATE KEY-----\\nMHcCAQ", "MHcCAQ"),
    "bearer": ("Authorization: Bearer abcdef123456", "abcdef123456"),
    "basic": ("authorization: Basic " + base64.b64encode(b"user:p@ss").decode(), base64.b64encode(b"user:p").decode()),
    "cookie": ("Cookie: sid=abc; theme=dark", "sid=abc"),
    "assignment": ("DB_PASS=hunter2-abc", "hunter2"),
    "quoted": ('{"password": "correct horse battery"}', "correct"),
    "within JSON": (json.dumps({"told": json.dumps({"api_key": "abc-def-123"})}), "abc-def"),
    "option": ("tool --password hunter2-abc --verbose", "hunter2"),
    "after an escape": ("failed:\\nhf_" + "aB3" * 11, "aB3aB3"),
    "percent-encoded signed URL": ("to=https%3A%2F%2Fhost%2Ff%3FX-Amz-Signature%3Dabc12345%26x%3D1", "abc12345"),
    "XML of an STS answer": ("<SecretAccessKey>wJalrXUtnFEMI</SecretAccessKey>", "wJalr"),
    "header as bytes": ("'X-Amz-Security-Token': b'FwoGZXIvYXdz12'", "FwoGZXIv"),
    "header as a pair": ("[('Authorization', 'hunter2-abc')]", "hunter2"),
    "digest": ('Authorization: Digest username="me", response="0a1b2c3d4e5f", nonce="x"', "0a1b2c"),
    "basic with a line end": ("Basic " + base64.b64encode(b"user:p@ss81\n").decode(), "dXNlcjpw"),
    "registry": (json.dumps({"r": {"auth": base64.b64encode(b"user:p@ss81").decode()}}), "dXNlcjpw"),
    "user of curl": ("curl -u admin:hunter2-abc https://host/", "hunter2"),
    "user of a proxy without a scheme": ("proxy admin:hunter2-abc@proxy:3128", "hunter2"),
    "user of a host without a scheme": ("admin:hunter2-abc@host.example.org/x", "hunter2"),
    "escaped slashes": ("https:\\/\\/admin:hunter2-abc@host.example.org\\/x", "hunter2"),
    "refused key": ("Incorrect API key provided: hunter2-abc", "hunter2"),
    "Telegram": ("https://api.telegram.org/bot123456789:AAEhBP0av28FrI3aXdgYHtSecretxx01/send", "AAEhBP0"),
    "Teams webhook": ("https://x.webhook.office.com/webhookb2/aaaa@bbbb/IncomingWebhook/cccc/dddd", "aaaa@bbbb"),
    "age": ("AGE-SECRET-KEY-1" + "QP3Z" * 14, "QP3ZQP3Z"),
    "begins like a placeholder": ("DB_PASSWORD=$ecret-9x8y7z DB_PASS={ecret-9x8y7z", "ecret-9x"),
    "coloured": ("\x1b[31mghp_" + "aB3" * 12, "aB3aB3"),
}

INNOCENT = (
    "hf://owner/name@0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f/file.bin",
    "hf://datasets/owner/name@main/folder",
    "git+https://example.org/team/project.git@0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
    "git@host:team/project.git",
    "write to a.person@example.org, or see https://example.org/@person?lang=en#terms",
    "https://example.org?contact=a@example.org",
    "http://localhost:8080/path/@person",
    "https://example.org:8443/path/@person",
    "a prompt about a token of love, a secret: the garden, and the key: to it",
    "What is a password? #basic training, bearer of news",
    "Basic understanding is Basic Training",
    "prompts/file#1.txt",
    "keyid: 0123456789abcdef0123456789abcdef",
    "bos_token: <|startoftext|>",
    "token=${HF_TOKEN}",
    "eyJfdHlwZSI6ICJodHRwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIn0=",
    "tokenizer/tokenizer.json, text_encoder/model.safetensors",
    "monkey=abcdef123-x",
    "openrail++",
    "key = self._key(blob_name(sha256))",
    "max_tokens = NUM_TOKENS, tokens = self.tokenize([prompt]), self.max_tokens = self.model.context_length",
    "pull python:3.11-slim@sha256:0123456789abcdef, mailto:person12@example.org",
    "docker run -u builder:builder at 12:34:56@example",
    "token=$HF_TOKEN password=<your password> api_key={api_key} secret=abc***",
)

ENVIRONMENT = {
    "AUTH_STRING": "admin:S3cr3t/pass",
    "WEBHOOK_URL": "https://chat.example.org/hook/81Zx",
    "DB_PASS": 'p@ss/w"rd é9',
    "DATABASE_URL": "postgres://user:in/the@middle9@host/db",
    "SENTRY_DSN": "https://0a1b2c3d@sentry.example.org/1",
    "COOKIE": "sid=abcd1234efgh",
    "SESSION": "Zx81-session-Zx81",
    "PAT": "correct-horse-battery",
    "MYSQL_PWD": "Tr0ub4dor&3",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_found(shape: str) -> None:
    text, secret = SHAPES[shape]
    for around in (text, f"before {text} after", f"({text})", f"a-file_{text}", json.dumps({"a": text})):
        assert secret not in without_secrets(around, {}), without_secrets(around, {})
    assert secret not in json.dumps(without_secrets({"a": [text, {text: (text,)}]}, {}))


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text, {}) == text


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_variable_s_value_is_found_in_every_form(name: str) -> None:
    secret = ENVIRONMENT[name]
    forms = [secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]]
    for form in forms:
        assert form not in without_secrets(f"told: {form} and more", ENVIRONMENT)
    header = "Basic " + base64.b64encode(f"user:{secret}".encode()).decode()
    assert header not in without_secrets(header, ENVIRONMENT)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("Zx81-env-1\n", "got Zx81-env-1 here"),
        ("  Zx81-env-1 ", "got Zx81-env-1 here"),
        ('"Zx81-env-1"', "got Zx81-env-1 here"),
        ("joe.doe:Zx81-env-1", "got Zx81-env-1 here"),
        ("line-one-12\nZx81-env-1\n", "got Zx81-env-1 here"),
        ('{"type": "service_account", "private_key": "Zx81-env-1"}', "got Zx81-env-1 here"),
        ("Zx81'env\"1", repr("Zx81'env\"1")),
        ("Zx81<env&1", "got Zx81&lt;env&amp;1 here"),
        ('Zx81"env1', json.dumps(json.dumps('Zx81"env1'))),
        ("Zx81-env-1", base64.b64encode(b"Zx81-env-1").decode()),
        ("$x81-Zx81", "got $x81-Zx81 here"),
    ],
)
def test_a_variable_s_value_is_known_as_it_is_used(value: str, told: str) -> None:
    clean = without_secrets(told, {"MY_SECRET": value})
    assert "Zx81" not in clean
    assert "[secret: MY_SECRET]" in clean


@pytest.mark.parametrize("value", ["user:Pr0xyPass9@proxy:3128", "http://user:Pr0xyPass9@proxy:3128"])
def test_the_password_of_a_proxy_is_known_with_a_scheme_or_without(value: str) -> None:
    assert "Pr0xyPass9" not in without_secrets("got Pr0xyPass9 here", {"HTTP_PROXY": value})


def test_the_password_of_a_url_may_hold_a_quote() -> None:
    url = "http://user:Pr0x'yPass9@proxy:3128"
    assert "yPass9" not in without_secrets(f"cannot connect to {url}", {"HTTPS_PROXY": url})


def test_the_password_of_a_variable_s_url_is_found_alone() -> None:
    assert without_secrets("got in/the@middle9 here", ENVIRONMENT) == "got [secret: DATABASE_URL] here"
    assert without_secrets("got S3cr3t/pass here", ENVIRONMENT) == "got [secret: AUTH_STRING] here"


@pytest.mark.parametrize(
    "word",
    ["password", "changeme1", "training", "generator", "published", "aesthetic", "letmein123", "yes", "12345678"],
)
def test_a_common_word_as_a_secret_redacts_nothing(word: str) -> None:
    text = f"the {word} of {word}s, {word}"
    assert without_secrets(text, {"PASSWORD": word, "API_KEY": word}) == text


def test_nothing_within_a_longer_word_is_replaced() -> None:
    environment = {"TOKEN": "train-1x"}
    assert without_secrets("retrain-1x train-1xyz", environment) == "retrain-1x train-1xyz"
    assert without_secrets("a train-1x.", environment) == "a [secret: TOKEN]."


def test_folders_and_paths_are_no_secrets() -> None:
    environment = {
        "PWD": "/home/me/project-1",
        "OLDPWD": "/home/me/old-1",
        "PATH": "/usr/bin-1",
        "KEY_FILE": "/keys/one-1",
    }
    text = "/home/me/project-1 /home/me/old-1 /usr/bin-1 /keys/one-1"
    assert without_secrets(text, environment) == text


def test_a_private_key_over_several_lines_leaves_one() -> None:
    lines = ["before", "-----BEGIN PRIVATE KEY-----", "MIGH", "AgEA", "-----END PRIVATE KEY-----", "after"]
    assert list(lines_without_secrets(lines)) == ["before", "[secret: key]", "after"]


def test_many_keys_that_become_the_same_take_no_longer() -> None:
    table = {f"password=abcdEFGH{number}xyz": number for number in range(20_000)}
    begun = time.process_time()
    assert len(without_secrets(table, {})) == 20_000
    assert time.process_time() - begun < 3


def test_entries_whose_keys_become_the_same_are_kept() -> None:
    one, two = "hf_" + "a1" * 12, "hf_" + "b2" * 12
    assert sorted(without_secrets({one: 1, two: 2}, {}).values()) == [1, 2]


pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from([text for text, _ in SHAPES.values()] + [*ENVIRONMENT.values(), *INNOCENT]),
    st.sampled_from(
        ["://", "@", ":", "=", "token=", "[secret: key]", "[secret: ", "]", "\\n", "%40", "'", '"', "-", "…"]
    ),
)
texts = st.lists(pieces, max_size=6).map("".join)
values = st.recursive(
    st.one_of(texts, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(values)
def test_twice_is_as_once_whatever_the_value(value: Any) -> None:
    once = without_secrets(value, ENVIRONMENT)
    assert repr(without_secrets(once, ENVIRONMENT)) == repr(once)  # by what is written: NaN differs from itself


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=20), texts, max_size=5), texts)
def test_no_environment_makes_it_fail(environment: dict[str, str], text: str) -> None:
    once = without_secrets(text, environment)
    assert without_secrets(once, environment) == once


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=20, max_size=60), texts, texts)
def test_a_random_secret_of_the_environment_never_remains(secret: str, before: str, after: str) -> None:
    secret += "-x1Q"
    if len(set(secret)) >= 6:
        assert secret not in without_secrets(before + secret + after, {"APP_SECRET": secret})


def test_depth_is_no_matter() -> None:
    deep: Any = "hf_" + "a1" * 12
    for _ in range(50_000):
        deep = [deep]
    clean = without_secrets(deep, {})
    while isinstance(clean, list):
        clean = clean[0]
    assert clean == "[secret: hub token]"


@pytest.mark.parametrize(
    "piece",
    [
        "key: value ",
        "eyJ-",
        "://a:",
        "://a@",
        "a=",
        "-----BEGIN PRIVATE KEY-----",
        "basic aaaaaaaa ",
        "@",
        "password=",
        "token.",
        "%40",
        "Bearer x",
        "sk-",
        "authorization",
        "\\n",
        "hf_",
        "[secret: key]",
        "https://u:p@h ",
        "a" * 1000 + " ",
        "%3A%2F%2F",
        "%3Fa%3Db",
        "u:bbbbbbbbb1@",
        "<password>a",
        "digest a=",
        "'auth': '",
    ],
)
def test_time_grows_with_the_text_alone(piece: str) -> None:
    text = (piece * (1_000_000 // len(piece)))[:1_000_000]
    begun = time.process_time()
    without_secrets(text, ENVIRONMENT)
    assert time.process_time() - begun < 3


def test_a_record_of_a_megabyte_takes_less_than_a_second() -> None:
    program = """
import json, time
from distar.secrets import without_secrets
record = {f"entry {i}": [f"password prompts, key=value, https://host/{i}?a=1", i] for i in range(14_000)}
assert len(json.dumps(record)) > 1_000_000
begun = time.process_time()
without_secrets(record)
print(time.process_time() - begun)
"""  # in a process without the checks of types that tests switch on
    environment = os.environ | ENVIRONMENT
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert float(told) < 1
