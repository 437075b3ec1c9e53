"""What a store holds of one release: its files, what points at it, and what is stated of how it was made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from securesystemslib.signer import Key

from distar.documents import read_json
from distar.errors import ReleaseError, SigningError, StorageError
from distar.fetching.source import FileMissingError
from distar.lineage.provenance import PREDICATE_TYPE, Statement
from distar.lineage.stated import Stated
from distar.release.releases import find, manifest_of, read_aliases, read_release, release_ids
from distar.release.signing import check_signatures, open_attestation, statement_names
from distar.release.storage import Store

Trust = Literal["trusted", "untrusted", "not checked", "unsigned"]

_SHA256 = re.compile("[0-9a-f]{8,64}")
_MAX_DOCUMENT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Attested:
    """A statement as it is attached to a release.

    Attributes:
        name: its name in the store.
        statement: the whole of it.
        stated: what it says.
        keyids: the trusted keys that signed it; without trusted keys, those that claim to have signed it.
        trust: whether a trusted key signed it; without trusted keys, whether it bears a signature, which then nobody
            checked.
    """

    name: str
    statement: Statement
    stated: Stated
    keyids: list[str]
    trust: Trust


@dataclass(frozen=True)
class Unreadable:
    """A statement that does not count, and why: it cannot be read, or is about another release."""

    name: str
    reason: str
    other_release: bool = False


@dataclass(frozen=True)
class Statements:
    """The statements that are attached to a release.

    Attributes:
        readable: those of how it was made, the one to go by first: trusted ones, then signed ones, then the newest.
        unreadable: damaged ones, those of another form, and those about another release.
    """

    readable: list[Attested]
    unreadable: list[Unreadable]


@dataclass(frozen=True)
class Evidence:
    """One release in a store; its manifest's hash is checked, and the statements' signatures are if keys are trusted.

    Attributes:
        store: where it is.
        release: its id.
        files: the manifest's.
        manifest_bytes: the manifest's size.
        aliases: those that point at it.
        alias_problems: what is wrong with an alias, by its name; it may have pointed here.
        statements: what is stated of it.
        keys_given: whether trusted keys decide what statement to go by.
    """

    store: Store
    release: str
    files: dict[str, dict[str, Any]]
    manifest_bytes: int
    aliases: list[str]
    alias_problems: dict[str, str]
    statements: Statements
    keys_given: bool

    @property
    def attested(self) -> list[Attested]:
        """The statements that count: with trusted keys, those that one of them signed; else all that can be read."""
        return [one for one in self.statements.readable if not self.keys_given or one.trust == "trusted"]

    @property
    def best(self) -> Attested:
        """The statement to go by.

        Raises:
            ReleaseError: there is none.
        """
        if self.attested:
            return self.attested[0]
        if self.statements.readable:
            raise ReleaseError(
                f"{self.store.url}: none of the trusted keys signed what is stated of how release {self.release} was "
                "made; name its key with --key, "
                "or leave trusted keys out (publish.trusted_keys: []) to see what others state"
            )
        damaged = "".join(f"; {one.name}: {one.reason}" for one in self.statements.unreadable)
        raise ReleaseError(
            f"{self.store.url}: nothing is stated of how release {self.release} was made{damaged}; publish it again "
            "from the project that made it"
        )

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
        if pin["bytes"] > _MAX_DOCUMENT:
            raise ReleaseError(
                f"{self.store.url}: {path} of release {self.release} has {pin['bytes']} bytes; expected a document of "
                f"at most {_MAX_DOCUMENT}"
            )
        try:
            with self.store.open_blob(pin["sha256"]) as chunks:
                content = b""
                for chunk in chunks:
                    content += chunk
                    if len(content) > int(pin["bytes"]):
                        break  # it is not the file, however much more there is
        except FileMissingError as error:
            raise ReleaseError(f"{error}; it is {path} of release {self.release}") from error
        if hashlib.sha256(content).hexdigest() != pin["sha256"]:
            raise ReleaseError(
                f"{self.store.url}: {path} of release {self.release} is damaged; see `distar audit verify`"
            )
        return content


def gather(store: Store, text: str, trusted: Sequence[Key] = ()) -> Evidence:
    """Gather what a store holds of the release that an id, the beginning of one, an alias or a file's sha256 names.

    Args:
        store: where to look.
        text: the release's name.
        trusted: the keys whose signatures decide which statement counts; without any, every one does.

    Raises:
        ReleaseError: there is none, or its manifest is damaged.
    """
    return gather_release(store, resolve(store, text), trusted)


def gather_release(store: Store, release: str, trusted: Sequence[Key]) -> Evidence:
    """Gather what a store holds of the release with this very id; raises as `gather`.

    Only its manifest must be sound: what is wrong with an alias or a statement is part of what is gathered.
    """
    files = read_release(store, release)
    sound, problems = read_aliases(store)
    aliases = [name for name, alias in sound.items() if alias.release == release]
    return Evidence(
        store,
        release,
        files,
        len(manifest_of(store, release)),
        aliases,
        problems,
        gather_statements(store, release, files, trusted),
        bool(trusted),
    )


def resolve(store: Store, text: str) -> str:
    """Return the id of the release that a text names: an id, the beginning of one, an alias, or a file's sha256.

    Raises:
        ReleaseError: it names none, or several.
    """
    try:
        return find(store, text)
    except ReleaseError:
        if not _SHA256.fullmatch(text):
            raise
        holders = [release for release in release_ids(store) if _holds(store, release, text)]
        if len(holders) != 1:
            told = (
                f"files of {len(holders)} releases begin so: {', '.join(holders)}" if holders else "no file begins so"
            )
            raise ReleaseError(
                f"{store.url}: no release begins with {text}, and {told}; name a release, or ask what was made "
                f"from it: `distar audit forward --reference {text}` (--reward, --prompts)"
            ) from None
        return holders[0]


def gather_statements(
    store: Store, release: str, files: dict[str, dict[str, Any]], trusted: Sequence[Key]
) -> Statements:
    """Read every statement that is attached to a release; one that is damaged hides no other.

    If they cannot be listed, the folder of all stands for them, as unreadable.
    """
    try:
        findings = check_signatures(store, release, files, trusted)
        names = statement_names(store, release)
    except StorageError as error:
        return Statements([], [Unreadable(f"attestations/{release}/", str(error))])
    signed_by: dict[str, list[str]] = {}
    for finding in findings:
        if finding.keyid and finding.status == "valid":
            signed_by.setdefault(finding.attestation, []).append(finding.keyid)
    readable, unreadable = [], []
    for name in names:
        try:
            envelope = open_attestation(store, name)
            statement = _read_statement(envelope.payload, name)
            stated = Stated.read(statement)
        except (SigningError, ReleaseError, StorageError) as error:
            unreadable.append(Unreadable(name, str(error)))
            continue
        if stated.release_id != release:
            about = f"it is about another release, {stated.release_id}; remove it, and find out who writes there"
            unreadable.append(Unreadable(name, about, other_release=True))
            continue
        keyids = signed_by.get(name, []) if trusted else list(envelope.signatures)
        if trusted:
            trust: Trust = "trusted" if keyids else "untrusted"
        else:
            trust = "not checked" if keyids else "unsigned"
        readable.append(Attested(name, statement, stated, keyids, trust))
    rank = {"trusted": 3, "not checked": 2, "untrusted": 1, "unsigned": 0}
    readable.sort(key=lambda one: (rank[one.trust], _ended(one)), reverse=True)
    return Statements(readable, unreadable)


def _read_statement(payload: bytes, name: str) -> Statement:
    statement = read_json(payload, name, ReleaseError)
    if not isinstance(statement, dict) or statement.get("predicateType") != PREDICATE_TYPE:
        raise ReleaseError(f"it is no statement of provenance (predicateType {PREDICATE_TYPE})")
    return statement


def _ended(one: Attested) -> datetime:
    return datetime.fromisoformat(one.stated.ended) if one.stated.ended else datetime.min.replace(tzinfo=UTC)


def _holds(store: Store, release: str, beginning: str) -> bool:
    try:
        files = read_release(store, release)
    except ReleaseError:
        return False  # its own verification names it
    return any(str(pin["sha256"]).startswith(beginning) for pin in files.values())
