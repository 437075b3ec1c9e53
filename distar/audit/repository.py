"""What git knows: the content of files at a commit, and which commits recorded something in dvc.lock."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from distar.documents import MAX_BYTES, read_yaml
from distar.errors import ReleaseError
from distar.git import in_repository, lfs_sha256, run_git
from distar.lineage.pipeline import DVC_LOCK
from distar.lineage.record import digest_of_pins
from distar.secrets import without_secrets

_LONGEST = 8192  # signs of an argument: twice the longest path; systems start no program with some 100,000
_BYTES_AT_ONCE = 64 * 1024 * 1024
_MD5 = re.compile(rb"([0-9a-f]{32})([.]dir)?")


class _Object(NamedTuple):
    name: str
    size: int


class _Content(NamedTuple):
    sha256: str
    size: int


@dataclass(frozen=True, eq=False)  # what it has read is kept by each object, and goes with it
class Repository:
    """The git repository of a project's folder; a folder that is in none knows no commit. Paths are the project's.

    Whoever asks of many files or commits asks at once: the number of git's processes does not grow with what a
    statement names. All methods may raise StorageError: git refuses to read the repository, or is not installed.
    """

    root: Path = Path()

    def known(self, commits: Iterable[str]) -> set[str]:
        """Return those of some commits, each by its whole hash, that are here."""
        names = list(commits)
        found = zip(names, self._looked_up([f"{name}^{{commit}}" for name in names]), strict=True)
        return {name for name, one in found if one is not None}

    def read(self, commit: str, path: str) -> bytes | None:
        """Return a file as it is at a commit, or None if it is not there."""
        return self._run("show", f"{commit}:./{path}")

    def files(self, commit: str, paths: Iterable[str]) -> dict[str, bytes]:
        """Read documents as they are at a commit; those that are not there, or larger than any, are left out."""
        tree = self._tree(commit)
        wanted = {path: tree[path] for path in dict.fromkeys(paths) if path in tree}
        contents = dict(self._contents(wanted.values(), MAX_BYTES))
        return {path: contents[name] for path, name in wanted.items() if name in contents}

    @lru_cache(maxsize=256)  # noqa: B019  lives as long as one command
    def document(self, commit: str, path: str) -> Any:
        """Return a YAML file as it is at a commit, without secrets; None if it is not there. It is not to be changed.

        Raises:
            ReleaseError: it cannot be read.
        """
        content = self.read(commit, path)
        return None if content is None else as_document(content, commit, path)

    def digests(self, commit: str, places: Iterable[str]) -> dict[str, str]:
        """Hash files and folders as they are at a commit, as records hash them; those not there are left out."""
        below = self._below(commit, set(places))
        hashes = self._hashes(name for blobs in below.values() for name in blobs.values())
        found = {}
        for place, blobs in below.items():
            if place in blobs:
                found[place] = hashes[blobs[place]].sha256
            else:
                pins = {
                    path.removeprefix(f"{place}/"): {"sha256": hashes[name].sha256, "bytes": hashes[name].size}
                    for path, name in blobs.items()
                }
                found[place] = digest_of_pins(pins)["sha256"]
        return found

    def versions(self, path: str) -> dict[str, bytes]:
        """Return a file as it is at each commit that changed it, of any branch, tag or experiment, oldest first."""
        found = self._run("log", "--all", "--full-history", "--reverse", "--format=%H", "--", path) or b""
        commits = found.decode().split()
        objects = self._looked_up([f"{commit}:./{path}" for commit in commits])
        names = {commit: one.name for commit, one in zip(commits, objects, strict=True) if one is not None}
        contents = dict(self._contents(names.values(), MAX_BYTES))
        return {commit: contents[name] for commit, name in names.items() if name in contents}

    def commits_with(self, md5: str) -> list[str]:
        """Return the commits that put a hash into dvc.lock, of any branch, tag or experiment, oldest first."""
        return self.commits_with_any([md5])[md5]

    def commits_with_any(self, md5s: Collection[str]) -> dict[str, list[str]]:
        """Return the same for each of several hashes, each whole or its beginning."""
        logged = (
            self._run("log", "--all", "--full-history", "--reverse", "--format=%H %P", "--", DVC_LOCK.as_posix()) or b""
        )
        families = [line.split() for line in logged.decode().splitlines()]  # a commit, and those before it
        commits = list(dict.fromkeys(commit for family in families for commit in family))
        objects = self._looked_up([f"{commit}:./{DVC_LOCK}" for commit in commits])
        locks = {commit: one.name for commit, one in zip(commits, objects, strict=True) if one is not None}
        counts = {name: _occurrences(content, md5s) for name, content in self._contents(locks.values())}

        def count(commit: str, md5: str) -> int:
            return counts[locks[commit]][md5] if commit in locks else 0

        return {
            md5: [
                commit
                for commit, *before in families  # a merge alone brings nothing that one of its parents has
                if count(commit, md5) and all(count(one, md5) != count(commit, md5) for one in before)
            ]
            for md5 in md5s
        }

    @lru_cache(maxsize=4096)  # noqa: B019  lives as long as one command
    def refs_of(self, commit: str) -> list[str]:
        """Return the branches, tags and experiments that point at a commit or come after it."""
        found = self._run("for-each-ref", "--format=%(refname:short)", f"--contains={commit}") or b""
        return found.decode().split()

    @lru_cache(maxsize=256)  # noqa: B019  lives as long as one command
    def _tree(self, commit: str) -> dict[str, str]:
        """Return the blob of every file of the project at a commit, by the file's path."""
        listing = (self._run("ls-tree", "-r", "-z", commit) or b"").decode(errors="surrogateescape").split("\0")
        entries = (entry.split("\t", 1) for entry in listing if entry)
        heads = {path: head.split() for head, path in entries}  # mode, kind, name
        return {path: name for path, (_, kind, name) in heads.items() if kind == "blob"}

    def _below(self, commit: str, places: set[str]) -> dict[str, dict[str, str]]:
        """Return the blobs that each place is, or holds, by their paths; places that hold none are left out."""
        below: dict[str, dict[str, str]] = {}
        for path, name in self._tree(commit).items():
            for place in (path, *map(str, PurePosixPath(path).parents)):
                if place in places:
                    below.setdefault(place, {})[path] = name
        return below

    def _hashes(self, names: Iterable[str]) -> dict[str, _Content]:
        """Hash blobs as runs read their files: what git-lfs keeps, where git has but a pointer."""
        for name, content in self._contents(set(names) - self._hashed.keys()):
            self._hashed[name] = _Content(lfs_sha256(content) or hashlib.sha256(content).hexdigest(), len(content))
        return self._hashed

    @cached_property
    def _hashed(self) -> dict[str, _Content]:
        return {}

    def _looked_up(self, names: Sequence[str]) -> list[_Object | None]:
        """Ask git for objects by its own names of them, which hold no line end; None stands for what is not there."""
        asked = "".join(f"{name}\n" for name in names).encode()
        told = self._run("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked) if names else b""
        if told is None:
            return [None] * len(names)
        lines = [line.split(" ") for line in told.decode().splitlines()]  # "NAME SIZE", or "… missing"
        return [_Object(line[0], int(line[1])) if line[-1].isdigit() else None for line in lines]

    def _contents(self, names: Iterable[str], largest: int = sys.maxsize) -> Iterator[tuple[str, bytes]]:
        """Read blobs no larger than that, some at once: all of them may be more than fits into memory."""
        objects = self._looked_up(sorted(set(names)))
        for some in _portions(one for one in objects if one is not None and one.size <= largest):
            told = self._run("cat-file", "--batch", stdin="".join(f"{one.name}\n" for one in some).encode())
            assert told is not None  # noqa: S101  git has just listed them
            place = 0
            for one in some:
                place = told.index(b"\n", place) + 1  # behind its name, kind and size
                yield one.name, told[place : place + one.size]
                place += one.size + 1

    def _run(self, *arguments: str, stdin: bytes | None = None) -> bytes | None:
        if max(map(len, arguments)) > _LONGEST:
            return None  # git has nothing of such a name
        result = run_git(*arguments, folder=self.root, stdin=stdin) if self._is_one else None
        return result.stdout if result and result.returncode == 0 else None

    @cached_property
    def _is_one(self) -> bool:
        return in_repository(self.root)


def as_document(content: bytes, commit: str, path: str) -> Any:
    """Return what a YAML file of a commit holds, without secrets.

    Raises:
        ReleaseError: it cannot be read.
    """
    return without_secrets(read_yaml(content, f"{path} of {commit[:12]}", ReleaseError))


def _portions(objects: Iterable[_Object]) -> Iterator[list[_Object]]:
    some: list[_Object] = []
    size = 0
    for one in objects:
        if some and size + one.size > _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some


def _occurrences(content: bytes, md5s: Collection[str]) -> Counter[str]:
    """Count the occurrences of each hash, or hash prefix, in a text."""
    whole: Counter[str] = Counter()
    for found in _MD5.finditer(content):
        whole[found[1].decode()] += 1
        if found[2]:
            whole[found[0].decode()] += 1
    return Counter({md5: whole[md5] if _MD5.fullmatch(md5.encode()) else content.count(md5.encode()) for md5 in md5s})
