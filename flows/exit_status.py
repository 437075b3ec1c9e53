"""The exit status of a flow that runs from the command line, and the line that it ends with."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import httpx

from distar.errors import DistarError


def exit_status(flow: str, run: Callable[[], int | None], kept: str = "") -> int:
    """Run a flow; if it fails, print why on one line.

    Args:
        flow: the name that the line begins with.
        run: runs the flow, and returns an exit status if it is not 0.
        kept: what is left of a run that was interrupted or whose Prefect server was lost, and how to go on.

    Returns:
        The process's exit status: 1 for an error of this project, and for a server that was lost; 130 for Ctrl-C.
    """
    try:
        return run() or 0
    except DistarError as error:
        print(f"{flow}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{flow}: interrupted; what it had started has ended. {kept}", file=sys.stderr)
        return 128 + signal.SIGINT
    except httpx.TransportError as error:
        print(
            f"{flow}: the Prefect server was lost ({error or type(error).__name__}), and shows nothing of what came "
            f"after. {kept}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # Prefect would go on for minutes to tell that server of its events
