"""One rule for what must hold no credentials: parameters, changes of them, arguments, addresses of stores and servers.

DVC keeps parameters as they are, in dvc.lock, which is committed; releases state them. So a credential in them is
refused, where other texts lose it (`distar.secrets`).
"""

from __future__ import annotations

import os
import re
from typing import Any

from distar.errors import ParameterError
from distar.secrets import kind_of_secret, without_secrets

_REMEDY = (
    "which belong in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for S3; HF_TOKEN "
    "for the hub; write it without them"
)
_MORE_THAN_AN_ADDRESS = re.compile(
    r"(?!file://)(?:[\w+.-]+://(?:[^/]*@|.*[?#])|(?![\w+.-]+://).*@)",  # without a scheme a user's end is any `@`
    re.DOTALL,
)


def refuse_credentials(value: Any, shown_as: str) -> None:
    """Check that no text of a value, or of a tree of values, holds credentials.

    Args:
        value: text, or tables and lists of it; keys are looked at, too.
        shown_as: what the message begins with; the path within the tree follows.

    Raises:
        ParameterError: one does; the message names the place, not the text.
    """
    clean = without_secrets(value)
    waiting: list[tuple[str, Any, Any]] = [] if clean == value else [("", value, clean)]
    while waiting:
        place, before, after = waiting.pop()
        match before, after:
            case str(), str() if before != after:
                raise _refusal(f"{shown_as}: {place}" if place else shown_as, kind_of_secret(before, after))
            case dict(), dict():
                for (key, content), (clean_key, clean_content) in zip(before.items(), after.items(), strict=True):
                    waiting.append((f"{place}.{key}" if place else str(key), content, clean_content))
                    waiting.append((f"a key in {place}" if place else "a key", key, clean_key))
            case list() | tuple(), list():
                for index, (content, clean_content) in enumerate(zip(before, after, strict=True)):
                    waiting.append((f"{place}.{index}" if place else str(index), content, clean_content))
            case _:
                pass


def refuse_more_than_an_address(url: str, shown_as: str) -> None:
    """Check that the address of a store or a server holds no credentials, and nothing that may be some.

    Raises:
        ParameterError: it does, or it has a user, a query or a fragment.
    """
    refuse_credentials(url, shown_as)
    if _MORE_THAN_AN_ADDRESS.match(url):
        raise _refusal(shown_as, "a user, a query or a fragment")


def refuse_in_environment(*names: str) -> None:
    """Check that variables of the environment which name a server hold its address alone.

    Raises:
        ParameterError: one does not.
    """
    for name in names:
        if name in os.environ:
            refuse_more_than_an_address(os.environ[name], name)


def _refusal(shown_as: str, kind: str) -> ParameterError:
    if kind == "key":
        return ParameterError(
            f"{shown_as}: got a private key itself, expected the path of its file: DVC records what stands here"
        )
    return ParameterError(f"{shown_as}: this holds what may be credentials ({kind}), {_REMEDY}")
