"""The project's own events, and the Prefect server that hears of them."""

from __future__ import annotations

import os
import re
from contextvars import copy_context
from threading import Thread

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)

from distar.errors import ParameterError
from flows.temporary_server import start_temporary_server

PROMPTSET_PUBLISHED = "distar.promptset.published"
REWARD_REGRESSED = "distar.reward.regressed"

_URL_USER = re.compile(r"^(\w[\w+.-]*://)?.*@")  # and the password, in which anything may stand
_SECONDS_TO_ANSWER = 2.5
_REMEDY = "start it, or name another, such as PREFECT_API_URL=http://127.0.0.1:4200/api"


def require_server() -> None:
    """Check that there is a server to talk to: Prefect would start a temporary one, which nobody else hears.

    Raises:
        ParameterError: none is named, or none answers.
    """
    if not PREFECT_API_URL.value():
        raise ParameterError(
            "PREFECT_API_URL is not set; start a server (`make server`, or `prefect server start`) and name it: "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_server()


def check_server() -> None:
    """Check, before a flow begins, the server that it will report to; if none is named, start a temporary one.

    Raises:
        ParameterError: the server that is named does not answer in time, is none of Prefect's, or refuses.
        StorageError: the temporary server does not start.
    """
    if url := PREFECT_API_URL.value():
        shown = _URL_USER.sub(r"\1", url)
        if shown != url and PREFECT_API_AUTH_STRING.value():
            raise ParameterError(
                f"PREFECT_API_URL is {shown} with a user, who comes before PREFECT_API_AUTH_STRING; take the user and "
                "the password out of PREFECT_API_URL"
            )
        _check_answer(shown)
    elif PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        start_temporary_server()
    else:
        raise ParameterError(f"PREFECT_API_URL is not set, and Prefect may start no temporary server; {_REMEDY}")


def _check_answer(url: str) -> None:
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        try:
            client = get_client(sync_client=True)
        except (httpx.InvalidURL, OSError, ValueError) as error:
            raise ParameterError(f"PREFECT_API_URL is {url}, which cannot be asked: {_told(error)}") from error
        found: list[str | None] = []
        context = copy_context()
    # a thread of its own: neither the look-up of a name nor a server that sends a byte a second heeds a time limit
    asking = Thread(target=lambda: found.append(context.run(_problem, client)), daemon=True)
    asking.start()
    seconds = _SECONDS_TO_ANSWER * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # others want the cores, too
    asking.join(seconds)
    problem = found[0] if found else f"does not answer within {seconds:.1f} s; {_REMEDY}"
    if problem:
        raise ParameterError(f"PREFECT_API_URL is {url}, but that server {problem}")


def _problem(client: SyncPrefectClient) -> str | None:
    """Ask the server for its version, which it tells those alone whom it knows; return what is wrong, if anything."""
    try:
        with client:
            if client.server_type is ServerType.CLOUD:  # it tells no version
                client.read_flows(limit=1)
                return None
            version = client.api_version()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            given = "is another" if PREFECT_API_AUTH_STRING.value() else "is not set"
            return (
                f"refuses to answer ({status}): PREFECT_API_AUTH_STRING {given}; name the server's "
                "(after `make server`: set -a; . .distar/server/environment; set +a)"
            )
        return f"answers {status}, as no Prefect server does; {_REMEDY}"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"cannot be reached: {_told(error)}; {_REMEDY}"
    except ValueError:
        version = None  # no JSON
    if isinstance(version, str) and re.match(r"\d+\.\d+", version):
        return None
    return f"is none of Prefect's: it answers, but tells no version; {_REMEDY}"


def _told(error: Exception) -> str:
    """Return an error's message on one line; where the URL has a password, it may hold a part of it."""
    told = "" if "@" in str(PREFECT_API_URL.value()) else " ".join(str(error).split())
    return told or type(error).__name__
