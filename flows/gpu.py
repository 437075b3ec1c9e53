"""Prefect's concurrency limit `gpu`: work that needs the GPU waits for it, and holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect import get_run_logger
from prefect.concurrency.sync import concurrency

LIMIT = "gpu"


@contextmanager
def the_gpu() -> Iterator[None]:
    """Wait for the limit and hold it, if there is one.

    A server that is lost meanwhile stops nothing: without it the slot is free again within minutes.
    """
    done = False
    try:
        with concurrency(LIMIT, occupy=1):
            yield
            done = True
    except httpx.TransportError as error:
        if not done:
            raise
        get_run_logger().warning("The limit `%s` could not be given back (%s); it runs out by itself", LIMIT, error)
