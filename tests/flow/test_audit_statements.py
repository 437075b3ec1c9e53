"""Every single change of what is stated of a release, held against what the audit names and what its page lists."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Key, Signer

from distar.audit.repository import Repository
from distar.audit.verify import Verified, verify
from distar.release.keys import generate_key, load_signer, load_verifier
from distar.release.releases import find, read_release
from distar.release.signing import (
    attach_model,
    check_signatures,
    envelope_from_bytes,
    envelope_of,
    envelope_to_bytes,
    sign,
)
from distar.release.storage import Store, open_store
from tests.miniature import REPOSITORY
from tests.statements import Change, single_changes

_VALUES = re.compile(r"[.](parameters|params|libraries)[.]")


class Stated:
    """A reproduced project's only statement, changed in place."""

    def __init__(self) -> None:
        self.store: Store = open_store("file://published")
        self.release = find(self.store, "latest")
        self.files = read_release(self.store, self.release)
        self.repository = Repository()
        (self.path,) = Path("published/attestations", self.release).glob("*.intoto.json")
        self.content = self.path.read_bytes()
        self.document = json.loads(envelope_from_bytes(self.content, "").payload)

    @contextmanager
    def changed(self, document: Any, signer: Signer | None = None) -> Iterator[None]:
        """State something else, by the owner's key or nobody's."""
        envelope = envelope_of(document)
        if signer:
            sign(envelope, signer)
        path = self.path.with_name(f"{hashlib.sha256(envelope.payload).hexdigest()}.intoto.json")
        self.path.unlink()
        path.write_bytes(envelope_to_bytes(envelope))
        try:
            yield
        finally:
            path.unlink()
            self.path.write_bytes(self.content)

    def verify(self, *keys: Key) -> Verified:
        return verify(self.store, self.release, self.repository, keys)

    def changes(self, step: int) -> list[Change]:
        """Return every `step`th change, and of values that are all compared in one way a tenth of these."""
        every = list(single_changes(self.document))
        values = [change for change in every if _VALUES.search(change.path)]
        others = [change for change in every if not _VALUES.search(change.path)]
        return [*others[::step], *values[:: 10 * step]]


@pytest.fixture
def stated(reproduced: Path) -> Stated:
    del reproduced
    return Stated()


def stated_once() -> list[str]:
    """Return what docs/audit.md lists as resting on the signature alone."""
    page = (REPOSITORY / "docs" / "audit.md").read_text(encoding="utf-8")
    section = page.partition("### What rests on the signature alone")[2].partition("\n#")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def rests_on_signature(change: Change, patterns: list[str]) -> bool:
    path = re.sub(r"(^|[.])-", r"\1", change.path.removeprefix("predicate."))
    path = path.removeprefix("buildDefinition.").removeprefix("internalParameters.")
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def missed(stated: Stated, changes: list[Change], signer: Signer | None, *keys: Key) -> tuple[list[str], int]:
    """Return the changes that no check names, but for those that are listed, and how many are listed."""
    found, listed, patterns = [], 0, stated_once()
    for change in changes:
        with stated.changed(change.document, signer):
            if stated.verify(*keys).holds:
                if rests_on_signature(change, patterns):
                    listed += 1
                else:
                    found.append(change.path)
    return found, listed


def check_every(stated: Stated, step: int, signer: Signer | None, *keys: Key) -> None:
    assert stated.verify(*keys).holds
    changes = stated.changes(step)
    found, listed = missed(stated, changes, signer, *keys)
    named = len(changes) - listed - len(found)
    print(
        f"{len(changes)} changes: {named / len(changes):.1%} named, {listed / len(changes):.1%} rest on the signature"
    )
    assert found == []
    assert named > 0.8 * len(changes)


def test_list_of_what_rests_on_signatures_is_there() -> None:
    assert len(stated_once()) > 5


def test_unsigned_changes_are_named(stated: Stated) -> None:
    check_every(stated, 53, None)


@pytest.mark.slow
def test_every_unsigned_change_is_named(stated: Stated) -> None:
    check_every(stated, 1, None)


def signed_by_owner(stated: Stated) -> tuple[Signer, Key]:
    generate_key(Path("key"))
    signer, key = load_signer("key"), load_verifier(Path("key.pub"))
    envelope = envelope_of(stated.document)
    sign(envelope, signer)
    stated.content = envelope_to_bytes(envelope)
    stated.path.write_bytes(stated.content)
    attach_model(stated.store, stated.release, stated.files, signer)
    return signer, key


def test_changes_that_the_owner_signed_are_named(stated: Stated) -> None:
    check_every(stated, 101, *signed_by_owner(stated))


@pytest.mark.slow
def test_every_change_that_the_owner_signed_is_named(stated: Stated) -> None:
    check_every(stated, 3, *signed_by_owner(stated))


def test_signature_names_every_change(stated: Stated) -> None:
    _, key = signed_by_owner(stated)
    signatures = envelope_from_bytes(stated.content, "").signatures
    for change in single_changes(stated.document):
        envelope = envelope_of(change.document)
        envelope.signatures = signatures
        path = stated.path.with_name(f"{hashlib.sha256(envelope.payload).hexdigest()}.intoto.json")
        path.write_bytes(envelope_to_bytes(envelope))
        findings = check_signatures(stated.store, stated.release, stated.files, [key])
        (about,) = [one for one in findings if one.attestation.endswith(path.name)]
        assert about.status in {"invalid", "other release"}, change.path
        path.unlink()


def test_every_change_of_the_manifest_is_named(stated: Stated) -> None:
    path = Path(f"published/releases/{stated.release}.json")
    content = path.read_bytes()
    for change in single_changes(json.loads(content)):
        path.write_text(json.dumps(change.document))
        assert stated.verify().gaps[0].what == "manifest", change.path
    path.write_bytes(content)


def test_every_change_of_an_alias_is_named_but_who_and_when(stated: Stated) -> None:
    path = Path("published/aliases/latest.json")
    content = path.read_bytes()
    for change in single_changes(json.loads(content)):
        path.write_text(json.dumps(change.document))
        named = not stated.verify().holds
        assert named == (not re.fullmatch(r"history[.]0[.](who|when)", change.path)), change.path
    path.write_bytes(content)
