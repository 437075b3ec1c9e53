"""Announce that a prompt set was published; the served retrain begins when it hears of it.

    python -m flows.promptset recent-captions

The set itself is a file below prompts/ that the profile names. Commit it first: a retrain reads commits.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence

from prefect.events import Event, Resource, get_events_client

from distar.commands.arguments import Parser
from distar.errors import ParameterError
from distar.secrets import print_exception
from flows.events import PROMPTSET_PUBLISHED, require_server
from flows.exit_status import exit_status

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def announce(name: str) -> None:
    """Tell the Prefect server that a prompt set was published; return when it knows.

    Raises:
        ParameterError: this cannot be a prompt set's name, or there is no server.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(f"got the name {name!r}; expected letters, digits, dots, hyphens and underscores")
    require_server()
    resource = Resource({"prefect.resource.id": f"distar.promptset.{name}", "prefect.resource.name": name})

    async def emit() -> None:
        async with get_events_client() as client:
            await client.emit(Event(event=PROMPTSET_PUBLISHED, resource=resource))

    asyncio.run(emit())


def main(arguments: Sequence[str] | None = None) -> int:
    """Announce from the command line; return the process's exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the prompt set's name")
    options = parser.parse_args(arguments)
    return exit_status("promptset", lambda: announce(options.name), "Whether it heard is not known: announce again.")


if __name__ == "__main__":
    sys.excepthook = print_exception
    sys.exit(main())
