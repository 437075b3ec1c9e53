"""DVC's command line, as flows and audits run it: `python -m distar.dvc repro`.

It is DVC but for how it handles YAML, which is most of what it computes in a repro. It replaces lock files whole, so
that one that is killed leaves none half-written; what comes out is the same byte for byte. It parses no text twice. The
process hardly looks for garbage, and ends without taking itself apart.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
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

    dvcfile.modify_yaml = partial(_modify_yaml, texts={})
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
def _modify_yaml(path: str, fs: Any = None, *, texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what a YAML file holds, and write to it what the body made of that: DVC's function, but for lock files.

    Those hold no comments to be kept, for which DVC reads them at five times the cost.

    Args:
        path: the file.
        fs: where a file that is not a lock file lies, as DVC has it.
        texts: by each stage as it was written, the text that it became; for most are as they were.

    Raises:
        StorageError: there is no space left; the file is as it was.
    """
    from dvc.utils.serialize import load_yaml, modify_yaml

    target = Path(path)
    if target.suffix != ".lock":
        with modify_yaml(path, fs=fs) as document:
            yield document
        return
    document = load_yaml(path) if target.exists() else {}
    yield document
    with written_whole(target) as place:
        place.write_text(_text_of(document, texts), encoding="utf-8")


def _text_of(document: dict[str, Any], texts: dict[str, str]) -> str:
    """Return a lock file's text, stage by stage."""
    from dvc.utils.serialize import dumps_yaml

    text = ""
    for key, value in document.items():
        if key != "stages" or not value:
            text += dumps_yaml({key: value})
            continue
        text += f"{key}:\n"
        for name, stage in value.items():
            told = repr((name, stage))
            if told not in texts:
                texts[told] = dumps_yaml({key: {name: stage}}).removeprefix(f"{key}:\n")
            text += texts[told]
    return text


if __name__ == "__main__":
    run()
