"""What the tests of stores let other processes do: publish, move aliases, and be killed in the middle of it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

from distar.errors import ReleaseError, StorageError
from distar.release.local import LocalStore
from distar.release.releases import move, point, publish
from distar.release.s3 import S3Store
from distar.release.storage import Store, open_store

_PROCESSES = get_context("forkserver")  # whose server has imported what takes long
_PROCESSES.set_forkserver_preload(["__main__", "boto3", "distar.release.releases", "distar.release.s3"])

_begin: list[Barrier] = []


class Task(NamedTuple):
    """A store, and what is to be done with it there; the environment of the test that asks for it."""

    url: str
    environment: Mapping[str, str]
    folder: Path = Path()
    release: str = ""
    expected: str | None = None


def together(action: Callable[[Task], str], tasks: Sequence[Task]) -> list[str]:
    """Carry out one task a process, all of them beginning at the same time."""
    barrier = _PROCESSES.Barrier(len(tasks))
    with ProcessPoolExecutor(len(tasks), _PROCESSES, initializer=_begin.append, initargs=(barrier,)) as pool:
        return list(pool.map(action, tasks))


def killed_at(n: int, task: Task) -> bool:
    """Publish, and promote, in a process that kills itself before its n-th request; say whether it came so far."""
    process = _PROCESSES.Process(target=_publish_until, args=(n, task))
    process.start()
    process.join()
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def started(action: Callable[[Task], str], task: Task) -> Any:
    """Start a process, and return it."""
    process = _PROCESSES.Process(target=action, args=(task,))
    process.start()
    return process


def attach(store: Store, release_id: str) -> None:
    """Say something about a release."""
    store.create(f"attestations/{release_id}/note.json", b"{}")


def publish_it(task: Task) -> str:
    store = _opened(task)
    return publish(store, task.folder, lambda release_id: attach(store, release_id))[1]


def publish_on_a_full_disk(task: Task) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        return publish_it(task)
    except StorageError as error:
        return str(error)


def point_it(task: Task) -> str:
    point(_opened(task), "latest", task.release)
    return "pointed"


def move_it(task: Task) -> str:
    try:
        move(_opened(task), "production", task.release, task.expected)
    except ReleaseError as error:
        return str(error)
    return "moved"


def _opened(task: Task) -> Store:
    os.environ.update(task.environment)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the tests' own process may ignore it, as a background job
    store = open_store(task.url)
    if _begin:
        _begin[0].wait()
    return store


def _publish_until(n: int, task: Task) -> None:
    store = _opened(task)
    count = itertools.count(1)

    def step(*_: Any, **__: Any) -> None:
        if next(count) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    if isinstance(store, S3Store):
        store.bucket.client.meta.events.register_first("before-send.s3", step)
    elif isinstance(store, LocalStore):
        root = str(store.root)
        sys.addaudithook(lambda event, values: step() if _concerns(event, values, root) else None)
    release_id, _ = publish(store, task.folder, lambda release_id: attach(store, release_id))
    point(store, "latest", release_id)


def _concerns(event: str, values: tuple[Any, ...], root: str) -> bool:
    """Say whether a step of the interpreter touches a file of the store."""
    return event.startswith(("open", "os.")) and any(isinstance(value, str) and root in value for value in values)
