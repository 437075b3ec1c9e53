"""DVC's command line, as flows and audits run it: `python -m distar.dvc repro`.

It is DVC but for how it handles YAML and dependencies, which is most of what it computes in a repro. It replaces
`dvc.lock` and its list of what is being read and written whole, so that one that is killed leaves neither half-written;
what comes out is the same byte for byte. It parses no text twice, and hashes no dependency twice as long as its files
stay as they are. The process hardly looks for garbage, and ends without taking itself apart.
With DISTAR_DVC_WAITS set it starts, reads the project, and begins once a line comes in: environment variables, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, NoReturn

from distar.atomic import written_whole
from distar.processes import end_process

WAITS = "DISTAR_DVC_WAITS"

_NEW_OBJECTS = 100_000  # before Python looks for garbage; 700 without being told


def run() -> NoReturn:
    """Be the process: run DVC's command and end with its status."""
    waits = os.environ.pop(WAITS, "")
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    import dvc.cli.parser
    import dvc.repo  # noqa: F401  as the line above: what `main` imports first, while it waits
    from dvc import dvcfile, rwlock
    from dvc.cli import main
    from dvc.dependency.base import Dependency
    from dvc.repo import Repo
    from dvc.utils.serialize import _yaml

    known = _KnownTexts(_yaml.parse_yaml)
    _yaml.parse_yaml = known.parse
    dvcfile.modify_yaml = partial(_modify_yaml, plain=dvcfile.modify_yaml, known=known)
    rwlock._edit_rwlock = partial(_edit_rwlock, plain=rwlock._edit_rwlock)
    dependencies: Any = Dependency  # a method may only be given another's type
    dependencies._build = partialmethod(_build, plain=Dependency._build, known={})
    if waits:
        with suppress(Exception), Repo() as repo:  # whatever is wrong, `main` meets it again and tells
            _ = repo.index.graph  # imported, and parsed as far as nothing changes until then
        if not (line := sys.stdin.readline()):  # closed: who was to tell has ended
            end_process(1)
        os.environ |= json.loads(line)
    end_process(main())


class _KnownTexts:
    """DVC's parser of YAML, which parses no text twice: DVC reads a file of parameters a dozen times a stage."""

    def __init__(self, parse: Callable[..., Any]) -> None:
        self._parse = parse
        self._pickled: dict[str, bytes] = {}

    def add(self, text: str, document: Any) -> None:
        """Remember what a text holds."""
        self._pickled[text] = pickle.dumps(document)

    def parse(self, text: str, path: str, typ: str = "safe") -> Any:
        """Return what a text holds, each time anew: DVC changes what it gets."""
        if typ != "safe":
            return self._parse(text, path, typ)
        if text not in self._pickled:
            self.add(text, self._parse(text, path))
        return pickle.loads(self._pickled[text])  # noqa: S301  our own


def _build(
    dependency: Any,
    odb: Any,
    path: str,
    fs: Any,
    name: str,
    *,
    plain: Callable[..., Any],
    known: dict[tuple[str, str], tuple[dict[str, Any], Any]],
    **options: Any,
) -> Any:
    """Return the hashes of a stage's dependency: DVC's method, but once for files that stay as they are.

    DVC calls it four times a stage.

    Args:
        dependency: the dependency.
        odb: where DVC keeps objects.
        path: where the dependency lies.
        fs: the file system in which it does.
        name: the hash's.
        plain: DVC's method.
        known: what was returned of a path and a hash's name before, and the states of the files then.
        options: what else DVC's method takes.
    """
    states = _states(path) if fs.protocol == "local" else {}
    before, built = known.get((path, name), ({}, None))
    if not states or states != before:
        built = plain(dependency, odb, path, fs, name, **options)
        known[path, name] = states, built
    return built


def _states(path: str) -> dict[str, tuple[int, int, int]]:
    """Return, of each file at or below a path, what DVC too goes by to tell whether it is still the same."""
    files = [path, *(f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names)]
    states = {}
    for file in files:
        with suppress(OSError):  # gone; DVC tells
            found = Path(file).stat()
            states[file] = found.st_ino, found.st_mtime_ns, found.st_size
    return states


@contextmanager
def _modify_yaml(
    path: str, fs: Any = None, *, plain: Callable[..., Any], known: _KnownTexts
) -> Iterator[dict[str, Any]]:
    """Yield what a YAML file holds, and write to it what the body made of that: DVC's function, but for lock files.

    Those hold no comments to be kept, for which DVC reads them at five times the cost.

    Args:
        path: the file.
        fs: where a file that is not a lock file lies, as DVC has it.
        plain: DVC's function.
        known: what texts hold.

    Raises:
        StorageError: there is no space left; the file is as it was.
    """
    target = Path(path)
    if target.suffix != ".lock":
        with plain(path, fs=fs) as document:
            yield document
        return
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    document = known.parse(text, path)
    stages = document.get("stages") or {}
    before = {name: (stages[name], lines) for name, lines in _texts_of(text, stages).items()}
    yield document
    text = _text_of(document, before)
    with written_whole(target) as place:
        place.write_text(text, encoding="utf-8")
    known.add(text, document)  # it is read again at the next stage


def _texts_of(text: str, stages: Iterable[str]) -> dict[str, str]:
    """Return the lines of each stage of a lock file; of none where the file is not laid out as DVC does it."""
    _, _, last = text.partition("\nstages:\n")  # DVC writes stages last
    texts = re.split(r"^(?=  \S)", last, flags=re.MULTILINE)[1:]
    names = [*stages]
    as_dvc_does = len(texts) == len(names) and re.search(r"^\S|[&*]id\d", last, re.MULTILINE) is None
    return dict(zip(names, texts, strict=True)) if as_dvc_does else {}


def _text_of(document: dict[str, Any], before: dict[str, tuple[Any, str]]) -> str:
    """Return a lock file's text; a stage that is still the one of `before` has the text that it had."""
    from dvc.utils.serialize import dumps_yaml

    text = ""
    for key, value in document.items():
        if key != "stages" or not value:
            text += dumps_yaml({key: value})
            continue
        text += f"{key}:\n"
        for name, stage in value.items():
            was, lines = before.get(name, (None, ""))
            text += lines if stage is was else dumps_yaml({key: {name: stage}}).removeprefix(f"{key}:\n")
    return text


@contextmanager
def _edit_rwlock(lock_dir: str, fs: Any, hardlink: bool, *, plain: Callable[..., Any]) -> Iterator[Any]:
    """Yield which paths are being read and written, and write what the body made of that: DVC's function, but whole.

    A file that a kill leaves half-written keeps every later run from beginning.
    """
    with plain(lock_dir, _Replacing(fs), hardlink) as lock:
        yield lock


class _Replacing:
    """What DVC's function asks of a file system, which here replaces the file that it writes.

    Whoever writes it holds DVC's lock of it, so one place for what is being written is enough.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self.join = fs.join

    @contextmanager
    def open(self, path: str, mode: str = "r", encoding: str | None = None) -> Iterator[Any]:
        if mode == "r":
            with self._fs.open(path, mode, encoding=encoding) as file:
                yield file
        else:
            partial_path = f"{path}.new"
            with self._fs.open(partial_path, mode, encoding=encoding) as file:
                yield file
            os.replace(partial_path, path)


if __name__ == "__main__":
    run()
