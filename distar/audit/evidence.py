"""What a store holds of one release: its files, what points at it, and what is stated of how it was made."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from distar.errors import ReleaseError, SigningError
from distar.fetching.source import FileMissingError
from distar.lineage.provenance import Statement
from distar.lineage.stated import Stated
from distar.release.releases import alias_names, find, read_alias, read_release, release_ids
from distar.release.signing import ENVELOPE_SUFFIX, envelope_from_bytes
from distar.release.storage import Store

_SHA256 = re.compile("[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Attested:
    """A statement as it is attached to a release, what it says, and the keys that claim to have signed it."""

    name: str
    statement: Statement
    stated: Stated
    keyids: list[str]


@dataclass(frozen=True)
class Evidence:
    """One release in a store; nothing of it is verified here but the manifest's hash."""

    store: Store
    release: str
    files: dict[str, dict[str, Any]]
    aliases: list[str]
    attested: list[Attested]
    """Those that can be read, the signed and the newest first."""

    @property
    def best(self) -> Attested:
        """The statement to go by.

        Raises:
            ReleaseError: there is none.
        """
        if not self.attested:
            raise ReleaseError(
                f"{self.store.url}: nothing is stated of how release {self.release} was made; publish it again "
                "from the project that made it"
            )
        return self.attested[0]

    @property
    def stated(self) -> Stated:
        """What the statement to go by says; raises as `best`."""
        return self.best.stated

    def read(self, path: str) -> bytes:
        """Read one file of the release, and check it.

        Raises:
            ReleaseError: the release has no such file, or the store holds something else.
        """
        pin = self.files.get(path)
        if pin is None:
            raise ReleaseError(
                f"{self.store.url}: release {self.release} has no {path}; it has {', '.join(self.files)}"
            )
        try:
            with self.store.open_blob(pin["sha256"]) as chunks:
                content = b"".join(chunks)
        except FileMissingError as error:
            raise ReleaseError(f"{error}; it is {path} of release {self.release}") from error
        if hashlib.sha256(content).hexdigest() != pin["sha256"]:
            raise ReleaseError(
                f"{self.store.url}: {path} of release {self.release} is damaged; see `distar audit verify`"
            )
        return content


def gather(store: Store, text: str) -> Evidence:
    """Gather what a store holds of the release that an id, the beginning of one, an alias or a file's sha256 names.

    Raises:
        ReleaseError: there is none, or its manifest is damaged.
    """
    release = _resolve(store, text)
    files = read_release(store, release)
    aliases = [name for name in alias_names(store) if read_alias(store, name).release == release]
    return Evidence(store, release, files, aliases, _attested(store, release))


def gather_all(store: Store) -> list[Evidence]:
    """Gather what a store holds of every release that can be read."""
    return [gather(store, release) for release in release_ids(store)]


def _resolve(store: Store, text: str) -> str:
    try:
        return find(store, text)
    except ReleaseError:
        if not _SHA256.fullmatch(text):
            raise
        holders = [
            release
            for release in release_ids(store)
            if any(str(pin["sha256"]).startswith(text) for pin in read_release(store, release).values())
        ]
        if len(holders) != 1:
            told = (
                f"files of {len(holders)} releases begin so: {', '.join(holders)}" if holders else "no file begins so"
            )
            raise ReleaseError(
                f"{store.url}: no release begins with {text}, and {told}; name a release, or ask what was made "
                f"from it: `distar audit forward --reference {text}` (--reward, --prompts)"
            ) from None
        return holders[0]


def _attested(store: Store, release: str) -> list[Attested]:
    found = []
    for name in store.names(f"attestations/{release}/"):
        document = store.read(name) if name.endswith(ENVELOPE_SUFFIX) else None
        if document is None:
            continue
        try:
            envelope = envelope_from_bytes(document.content, name)
            statement = json.loads(envelope.payload)
            found.append(Attested(name, statement, Stated.read(statement), list(envelope.signatures)))
        except (SigningError, ReleaseError):
            continue  # of another kind, or damaged, which `audit verify` names: check_signatures reads it too
    return sorted(found, key=lambda one: (bool(one.keyids), one.stated.ended), reverse=True)
