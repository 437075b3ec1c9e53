"""Requests to this machine's own servers, which no proxy can pass on."""

from __future__ import annotations

from collections.abc import Mapping

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAMES = ("no_proxy", "NO_PROXY")  # some programs read the one, some the other, some either first


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that have requests to the loopback sent directly, whatever proxy the environment names.

    The hosts that an environment excepts already stay excepted, by both names.
    """
    given = [environment[name] for name in _NAMES if name in environment]
    kept = dict(zip(_NAMES, (given[0], given[-1]), strict=True)) if given else dict.fromkeys(_NAMES, "")
    return {name: _extended(value) for name, value in kept.items()}


def _extended(value: str) -> str:
    hosts = [host.strip() for host in value.split(",") if host.strip()]
    if "*" in hosts:  # all are excepted; beside other hosts some programs do not understand it
        return "*"
    return ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
