"""No secret leaves this machine in a record: what looks like one is replaced by a word that says so."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_SHORTEST = 8  # shorter values of such variables ("yes", "1") are words that stand everywhere

_SHAPES = (
    (re.compile(r"(?<=://)[^/@\s\"']+@"), ""),  # user and password before a host
    (re.compile(r"([?&][^=&\s]*(?:token|signature|secret|key|credential)[^=&\s]*=)[^&\s\"']+", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "[secret: AWS key]"),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"), "[secret: hub token]"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-)[A-Za-z0-9_-]{20,}"), "[secret: git token]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), "[secret: key]"),
)


def without_secrets(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Return a JSON value without the secrets of the environment, and without what has a known secret's shape."""
    secrets = {
        content: f"[secret: {name}]"
        for name, content in environment.items()
        if _SECRET_NAME.search(name) and len(content) >= _SHORTEST
    }

    def clean(value: Any) -> Any:
        match value:
            case str():
                for secret in sorted(secrets, key=len, reverse=True):  # one may be part of another
                    value = value.replace(secret, secrets[secret])
                for shape, instead in _SHAPES:
                    value = shape.sub(instead, value)
                return value
            case dict():
                return {clean(key): clean(content) for key, content in value.items()}
            case list() | tuple():
                return [clean(content) for content in value]
            case _:
                return value

    return clean(value)
