"""Every single change of what is stated of a release, held against what the audit names and what its page lists."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Key, Signer

from distar.audit import repository
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


def definition(document: Any) -> Any:
    return document["predicate"]["buildDefinition"]


def runs(document: Any) -> Any:
    return definition(document)["internalParameters"]["runs"]


def lock(document: Any) -> Any:
    return definition(document)["internalParameters"]["dvc_lock"]


def twice(document: Any, stage: str, kind: str) -> None:
    entries = lock(document)[stage][kind]
    entries.insert(0, {**entries[0], "md5": "0" * 32, "size": 1})


def of_other_types(value: Any) -> Any:
    """Write truth values as numbers, as some languages do."""
    match value:
        case dict():
            return {name: of_other_types(content) for name, content in value.items()}
        case bool():
            return int(value)
        case _:
            return value


def with_other_types(document: Any) -> None:
    parameters = definition(document)["externalParameters"]
    parameters["parameters"] = of_other_types(parameters["parameters"])


ADDED: dict[str, Callable[[Any], object]] = {
    "dvc.lock: train: outputs/generator": lambda document: twice(document, "train", "outs"),
    "dvc.lock: prompts: distar/fetching": lambda document: twice(document, "prompts", "deps"),
    "parameter runtime.deterministic": with_other_types,
    "statement: approved": lambda document: document.update(approved=True),
    "statement: subject.0.note": lambda document: document["subject"][0].update(note=""),
    "statement: predicate.approved": lambda document: document["predicate"].update(approved=True),
    "statement: predicate.buildDefinition.note": lambda document: definition(document).update(note=None),
    "statement: predicate.buildDefinition.externalParameters.extra": lambda document: definition(document)[
        "externalParameters"
    ].update(extra=1),
    "statement: predicate.buildDefinition.resolvedDependencies.0.mediaType": lambda document: definition(document)[
        "resolvedDependencies"
    ][0].update(mediaType="x"),
    "statement: predicate.runDetails.byproducts": lambda document: document["predicate"]["runDetails"].update(
        byproducts=[]
    ),
    "statement: predicate.runDetails.builder.builderDependencies": lambda document: document["predicate"]["runDetails"][
        "builder"
    ].update(builderDependencies=[]),
    "statement: predicate.buildDefinition.internalParameters.runs.0.approved_by": lambda document: runs(document)[
        0
    ].update(approved_by="nobody"),
    "statement: predicate.buildDefinition.internalParameters.runs.0.machine.owner": lambda document: runs(document)[0][
        "machine"
    ].update(owner="nobody"),
    "dvc.lock: prompts: extra/input": lambda document: runs(document)[0]["inputs"].update({"extra/input": None}),
    "dvc.lock: prompts: extra/output": lambda document: runs(document)[0]["outputs"].update({"extra/output": None}),
    "dvc.lock: prompts: outputs/prompts": lambda document: runs(document)[0]["outputs"].update(
        {"outputs/prompts": None}
    ),
}


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_added_or_of_another_type_is_named(stated: Stated, signed: bool) -> None:
    signer, keys = None, []
    if signed:
        signer, key = signed_by_owner(stated)
        keys = [key]
    for what, edit in ADDED.items():
        document = copy.deepcopy(stated.document)
        edit(document)
        with stated.changed(document, signer):
            assert what in {gap.what for gap in stated.verify(*keys).gaps}, what


def test_input_that_was_not_there_and_is_in_the_commit_is_named(stated: Stated) -> None:
    document = copy.deepcopy(stated.document)
    runs(document)[0]["inputs"]["dvc.yaml"] = None
    with stated.changed(document):
        found = {gap.what: gap.detail for gap in stated.verify().gaps}
    assert found["commit: dvc.yaml"].startswith("the run had not there, commit")


def test_no_more_is_asked_of_git_for_more_that_is_stated(stated: Stated, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def counted(*arguments: str, **others: Any) -> Any:
        asked.append(arguments)
        return run_git(*arguments, **others)

    run_git = repository.run_git
    monkeypatch.setattr(repository, "run_git", counted)
    stated.repository = Repository()
    assert stated.verify().holds
    sound = len(asked)
    content = {"sha256": "0" * 64, "bytes": 1, "files": 1}
    document = copy.deepcopy(stated.document)
    runs(document)[0]["inputs"] |= {f"distar/{number}": content for number in range(500)}
    runs(document)[0]["inputs"] |= dict.fromkeys(("", ".", "..", "distar/../flows", "/", "distar/"), content)
    runs(document)[0]["parameters"] |= {f"{number}.yaml": {"a": 1} for number in range(500)}
    stated.repository = Repository()
    asked.clear()
    with stated.changed(document):
        assert len(stated.verify().gaps) > 1000
    assert len(asked) <= sound + 4  # what may be a pointer of DVC's, or parameters, is looked up, and then read


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
