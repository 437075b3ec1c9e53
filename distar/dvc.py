"""DVC's command line, as flows and audits run it: `python -m distar.dvc repro`.

It is DVC but for how it handles YAML, which is most of what it computes in a repro. It replaces lock files whole, so
that one that is killed leaves none half-written; what comes out is the same byte for byte. It parses no text twice. The
process hardly looks for garbage, and ends without taking itself apart.
"""

from __future__ import annotations

import gc
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from distar.atomic import written_whole
from distar.processes import end_process

_NEW_OBJECTS = 100_000  # before Python looks for garbage; 700 without being told


def run() -> NoReturn:
    """Be the process: run DVC's command and end with its status."""
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    from dvc import dvcfile
    from dvc.cli import main
    from dvc.utils.serialize import _yaml

    dvcfile.modify_yaml = partial(_modify_yaml, plain=dvcfile.modify_yaml)
    _yaml.parse_yaml = _remembering(_yaml.parse_yaml)
    end_process(main())


def _remembering(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Return DVC's parser of YAML, remembering texts: it reads a file of parameters a dozen times a stage."""

    @cache
    def pickled(text: str, path: str, typ: str) -> bytes:
        return pickle.dumps(parse(text, path, typ))

    def parse_once(text: str, path: str, typ: str = "safe") -> Any:
        return pickle.loads(pickled(text, path, typ)) if typ == "safe" else parse(text, path, typ)  # noqa: S301  ours

    return parse_once


@contextmanager
def _modify_yaml(path: str, fs: Any = None, *, plain: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield what a YAML file holds, and write to it what the body made of that: DVC's function, but for lock files.

    Those hold no comments to be kept, for which DVC reads them at five times the cost.

    Args:
        path: the file.
        fs: where a file that is not a lock file lies, as DVC has it.
        plain: DVC's function.

    Raises:
        StorageError: there is no space left; the file is as it was.
    """
    from dvc.utils.serialize import parse_yaml

    target = Path(path)
    if target.suffix != ".lock":
        with plain(path, fs=fs) as document:
            yield document
        return
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    document = parse_yaml(text, path)
    stages = document.get("stages") or {}
    before = {name: (stages[name], lines) for name, lines in _texts_of(text, stages).items()}
    yield document
    with written_whole(target) as place:
        place.write_text(_text_of(document, before), encoding="utf-8")


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


if __name__ == "__main__":
    run()
