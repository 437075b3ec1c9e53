"""What the outputs in a project's dvc.lock hold, now and at each commit, whether or not they were ever released.

DVC names an output by its md5, a recall by the sha256 of what is in it. The two are brought together by what the
project itself has: the prompt sets' card in the workspace or in DVC's cache, and the lock file that a stage read, as
git has it. The stages' records do not help: they hold hashes of whole folders.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from distar import paths
from distar.audit.repository import Repository
from distar.documents import Sha256, read_json, read_yaml, validated
from distar.errors import ReleaseError
from distar.lineage.pipeline import DVC_LOCK

Stage = Literal["prompts", "reference", "rewards"]

_WORKSPACE = ""  # stands for it among commits
_CARD = paths.PROMPTS_CARD.name


class _EntryForm(TypedDict):
    path: str
    md5: NotRequired[str]
    nfiles: NotRequired[int]


class _StageForm(TypedDict):
    deps: NotRequired[list[_EntryForm]]
    outs: NotRequired[list[_EntryForm]]
    params: NotRequired[dict[str, Any]]


class _LockForm(TypedDict):
    stages: NotRequired[dict[str, _StageForm]]


class _PinForm(TypedDict):
    sha256: Sha256


class _CachedForm(TypedDict):
    md5: str
    relpath: str


@dataclass(frozen=True)
class Held:
    """What the outputs of a stage hold.

    Attributes:
        contents: of each of DVC's hashes, the sha256 of what is in the output, by name.
        unclear: of each commit whose output nobody here can tell the content of: DVC's hashes, and why.
    """

    contents: dict[str, dict[str, str]] = field(default_factory=dict)
    unclear: dict[str, tuple[list[str], str]] = field(default_factory=dict)


def outputs_of(stage: Stage, repository: Repository) -> Held:
    """Find out what each output of a stage holds that the workspace's dvc.lock, or that of any commit, names.

    Raises:
        StorageError: git refuses to read the repository.
    """
    held = Held()
    locks = repository.versions(DVC_LOCK.as_posix())
    with suppress(OSError):
        locks[_WORKSPACE] = (repository.root / DVC_LOCK).read_bytes()
    entries: dict[str, Any] = {}  # most commits leave a stage as it was
    for commit, content in locks.items():
        text = _text_of(stage, content)
        md5s: list[str] = []
        try:
            if text not in entries:
                entries[text] = _entry(stage, text)
            md5s = [out["md5"] for out in entries[text].get("outs", ()) if out.get("nfiles", 1) and "md5" in out]
            for md5 in [one for one in md5s if one not in held.contents]:
                if stage == "prompts":
                    held.contents[md5] = _prompt_sets(md5, repository.root)
                else:
                    held.contents[md5] = _files(stage, entries[text], commit, repository)
        except ReleaseError as error:
            if commit != _WORKSPACE:  # nobody asks for what is not committed
                held.unclear[commit] = md5s, str(error)
    return held


def _text_of(stage: str, content: bytes) -> str:
    """Return the lines of a stage as DVC writes them, since all of a lock takes long to parse; else the whole text."""
    text = content.decode(errors="replace")
    found = re.findall(rf"^  {stage}:\n(?:   .*\n|\n)*", text, re.MULTILINE)
    laid_out = (
        text.startswith("schema:") and re.search(r"^stages:$", text, re.MULTILINE) and not re.search("[&*]id", text)
    )
    return f"stages:\n{found[0]}" if laid_out and len(found) == 1 else text


def _entry(stage: str, text: str) -> Mapping[str, Any]:
    document = read_yaml(text.encode(), str(DVC_LOCK), ReleaseError) or {}
    return validated(_LockForm, document, str(DVC_LOCK), ReleaseError).get("stages", {}).get(stage, {})


def _prompt_sets(md5: str, root: Path) -> dict[str, str]:
    """Return the sha256 of each prompt set in the stage's output, by the card in it.

    Raises:
        ReleaseError: it lies neither in the workspace nor in DVC's cache, or is damaged.
    """
    card = root / paths.PROMPTS_CARD
    with suppress(OSError):
        if _md5_of_folder(card.parent) == md5:
            return _sets_of(card.read_bytes())
    listing = read_json(_cached(md5, root), f"{md5} in DVC's cache", ReleaseError)
    files = validated(list[_CachedForm], listing, f"{md5} in DVC's cache", ReleaseError)
    (of_card, *_) = [file["md5"] for file in files if file["relpath"] == _CARD] or [""]
    return _sets_of(_cached(of_card, root))


def _sets_of(card: bytes) -> dict[str, str]:
    sets = validated(dict[str, _PinForm], read_json(card, _CARD, ReleaseError), _CARD, ReleaseError)
    return {f"prompts/{name}": one["sha256"] for name, one in sets.items()}


def _md5_of_folder(folder: Path) -> str:
    """Hash a folder as DVC does."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [{"md5": _md5((folder / name).read_bytes()), "relpath": name} for name in names]
    return f"{_md5(json.dumps(files, sort_keys=True).encode())}.dir"


def _cached(md5: str, root: Path) -> bytes:
    """Return what DVC's cache has under a hash.

    Raises:
        ReleaseError: it has nothing, or something else.
    """
    with suppress(OSError):
        content = (_cache(root) / md5[:2] / md5[2:]).read_bytes()
        if _md5(content) == md5.removesuffix(".dir"):
            return content
    raise ReleaseError(
        f"DVC's cache lacks {md5 or 'the card of the prompt sets'}; `dvc fetch --all-commits` fetches it"
    )


def _cache(root: Path) -> Path:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    with suppress(configparser.Error, UnicodeDecodeError):
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return root / ".dvc" / config.get("cache", "dir", fallback="cache") / "files" / "md5"


def _files(stage: Stage, entry: Mapping[str, Any], commit: str, repository: Repository) -> dict[str, str]:
    """Return the sha256 of each file that a stage fetched, by the lock file that it read.

    Raises:
        ReleaseError: neither the commit nor the workspace has that lock file, or it is damaged.
    """
    named = set(_texts(entry.get("params", {})))
    found: dict[str, str] = {}
    for dep in entry.get("deps", ()):
        path = dep["path"]
        if not path.endswith(".lock.json"):
            continue
        contents = [repository.read(commit, path) if commit else None]
        with suppress(OSError):
            contents.append((repository.root / path).read_bytes())
        content = next((one for one in contents if one is not None and _md5(one) == dep.get("md5")), None)
        if content is None:
            raise ReleaseError(f"{path} is not as the stage {stage} read it")
        pins = validated(dict[str, dict[str, _PinForm]], read_json(content, path, ReleaseError), path, ReleaseError)
        found |= {
            f"{stage}/{source}/{name}": pin["sha256"]
            for source, files in pins.items()
            if source in named
            for name, pin in files.items()
        }
    return found


def _texts(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for content in value.values():
                yield from _texts(content)
        case list():
            for content in value:
                yield from _texts(content)
        case str():
            yield value
        case _:
            pass


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
