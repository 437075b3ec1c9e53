"""What git knows: the content of files at a commit, and which commits recorded something in dvc.lock."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from distar.documents import read_yaml
from distar.errors import ReleaseError
from distar.git import in_repository, lfs_sha256, run_git
from distar.lineage.pipeline import DVC_LOCK
from distar.lineage.record import digest_of_pins
from distar.secrets import without_secrets

_LONGEST = 8192  # signs of an argument: twice the longest path; systems start no program with some 100,000


@dataclass(frozen=True, eq=False)  # what it has read is kept by each object, and goes with it
class Repository:
    """The git repository of a project's folder; a folder that is in none knows no commit. Paths are the project's.

    All methods may raise StorageError: git refuses to read the repository, or is not installed.
    """

    root: Path = Path()

    def has(self, commit: str) -> bool:
        """Say whether a commit is here."""
        return self._run("cat-file", "-e", f"{commit}^{{commit}}") is not None

    def read(self, commit: str, path: str) -> bytes | None:
        """Return a file as it is at a commit, or None if it is not there."""
        return self._run("show", f"{commit}:./{path}")

    @lru_cache(maxsize=256)  # noqa: B019  lives as long as one command
    def document(self, commit: str, path: str) -> Any:
        """Return a YAML file as it is at a commit, without secrets; None if it is not there. It is not to be changed.

        Raises:
            ReleaseError: it cannot be read.
        """
        content = self.read(commit, path)
        return (
            None if content is None else without_secrets(read_yaml(content, f"{path} of {commit[:12]}", ReleaseError))
        )

    @lru_cache(maxsize=4096)  # noqa: B019  lives as long as one command
    def digest(self, commit: str, place: str) -> str | None:
        """Hash a file or folder as it is at a commit, as records hash them; None if it is not there."""
        listing = (self._run("ls-tree", "-r", "-z", commit, "--", place) or b"").decode().split("\0")
        entries = [entry.split("\t", 1) for entry in listing if entry]
        blobs = {path: head.split()[2] for head, path in entries if head.split()[1] == "blob"}
        if place in blobs:
            return _sha256(self._blob(blobs[place]))
        pins = {}
        for path, blob in blobs.items():
            content = self._blob(blob)
            name = Path(path).relative_to(place).as_posix()
            pins[name] = {"sha256": _sha256(content), "bytes": len(content)}
        return digest_of_pins(pins)["sha256"] if pins else None

    def versions(self, path: str) -> dict[str, bytes]:
        """Return a file as it is at each commit that changed it, of any branch, tag or experiment, oldest first."""
        found = self._run("log", "--all", "--full-history", "--reverse", "--format=%H", "--", path) or b""
        commits = found.decode().split()
        asked = "".join(f"{commit}:./{path}\n" for commit in commits)
        answer = (self._run("cat-file", "--batch", stdin=asked.encode()) or b"") if commits else b""
        contents = {}
        for commit in commits:
            head, _, answer = answer.partition(b"\n")
            if head.endswith(b" missing"):
                continue  # this commit removed it
            size = int(head.split()[-1])
            contents[commit], answer = answer[:size], answer[size + 1 :]
        return contents

    @lru_cache(maxsize=4096)  # noqa: B019  lives as long as one command
    def commits_with(self, md5: str) -> list[str]:
        """Return the commits whose dvc.lock holds a hash, of any branch, tag or experiment, oldest first."""
        found = (
            self._run(
                "log", "--all", "--full-history", "--reverse", "--format=%H", f"-S{md5}", "--", DVC_LOCK.as_posix()
            )
            or b""
        )
        commits = found.decode().split()  # those that took it out again are found too
        return [commit for commit in commits if md5.encode() in (self.read(commit, DVC_LOCK.as_posix()) or b"")]

    def refs_of(self, commit: str) -> list[str]:
        """Return the branches, tags and experiments that point at a commit or come after it."""
        found = self._run("for-each-ref", "--format=%(refname:short)", f"--contains={commit}") or b""
        return found.decode().split()

    def _blob(self, name: str) -> bytes:
        content = self._run("cat-file", "blob", name)
        assert content is not None  # noqa: S101  git has just listed it
        return content

    def _run(self, *arguments: str, stdin: bytes | None = None) -> bytes | None:
        if max(map(len, arguments)) > _LONGEST:
            return None  # git has nothing of such a name
        result = run_git(*arguments, folder=self.root, stdin=stdin) if self._is_one else None
        return result.stdout if result and result.returncode == 0 else None

    @cached_property
    def _is_one(self) -> bool:
        return in_repository(self.root)


def _sha256(content: bytes) -> str:
    """Return the hash of a file as runs read it: what git-lfs keeps, where git has but a pointer."""
    return lfs_sha256(content) or hashlib.sha256(content).hexdigest()
