"""Signatures of releases, by elliptic-curve keys in files or in a key management service.

    attestations/ID/SHA256.intoto.json    what is said about a release: a DSSE envelope around an in-toto statement,
                                          named by the sha256 of that statement's bytes
    attestations/ID/KEYID.model.sig       model-signing's statement about the release folder, signed by one key

Both are DSSE envelopes, the second within a sigstore bundle. Signatures join an envelope by compare-and-swap, and no
release changes by being signed: it can be done later, by others, on other machines.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer

from distar.documents import read_json
from distar.errors import ReleaseError, SigningError, StorageError
from distar.release.package import MANIFEST
from distar.release.storage import Document, Store

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MODEL_PREDICATE = "https://model_signing/signature/v1.0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ENVELOPE_SUFFIX, MODEL_SUFFIX = ".intoto.json", ".model.sig"
_SHORTEST_HASH = 8

Files = Mapping[str, Mapping[str, str | int]]
Status = Literal["valid", "unsigned", "unknown key", "invalid", "other release"]


@dataclass(frozen=True)
class Finding:
    """What one signature is worth, or an attestation that has none or cannot be read (`keyid` is then None)."""

    attestation: str
    keyid: str | None
    status: Status
    detail: str = ""


def envelope_of(statement: Mapping[str, Any]) -> Envelope:
    """Put a statement into an envelope without signatures; the same statement always gives the same bytes."""
    return Envelope(_canonical(statement), PAYLOAD_TYPE, {})


def sign(envelope: Envelope, signer: Signer) -> None:
    """Add a signer's signature to an envelope, and check it.

    Raises:
        SigningError: the key's service failed, or signs with another key than it published.
    """
    keyid = signer.public_key.keyid
    try:
        envelope.sign(signer)
    except Exception as error:  # each service has errors of its own, and none a common base
        raise SigningError(f"the key {keyid} did not sign: {type(error).__name__}: {error}") from error
    if not _signed_by(envelope, signer.public_key):
        raise SigningError(f"what the key {keyid} signed does not verify with its public half; is it the same version?")


def envelope_to_bytes(envelope: Envelope) -> bytes:
    """Write an envelope as JSON."""
    return _json(envelope.to_dict())


def envelope_from_bytes(content: bytes, name: str) -> Envelope:
    """Read an envelope; nothing of it is verified.

    Raises:
        SigningError: it is not a DSSE envelope with an in-toto statement; the message begins with `name`.
    """
    return _envelope(_parsed(content, name), name)


def attach(store: Store, release_id: str, statement: Mapping[str, Any], signer: Signer | None) -> str:
    """Attach a statement to a release, signed if there is a signer; return its name in the store.

    A statement that is there already keeps the signatures that it has, and each key signs once.

    Raises:
        SigningError: as `sign`, or what the store holds under the statement's name is damaged.
    """
    envelope = envelope_of(statement)
    name = f"{_folder(release_id)}{hashlib.sha256(envelope.payload).hexdigest()}{ENVELOPE_SUFFIX}"
    if not store.create(name, envelope_to_bytes(envelope)):
        open_attestation(store, name)
    if signer:
        _add_signature(store, name, signer)
    return name


def attach_model(store: Store, release_id: str, files: Files, signer: Signer) -> str:
    """Attach a signature of the release folder, once a key; return its name in the store.

    Raises:
        SigningError: as `sign`.
    """
    name = f"{_folder(release_id)}{signer.public_key.keyid}{MODEL_SUFFIX}"
    while True:
        found = store.read(name)
        if found and _verifies(found.content, release_id, files, signer.public_key):
            return name
        signature = sign_model(release_id, files, signer)
        if store.replace(name, signature, found.version) if found else store.create(name, signature):
            return name


def sign_model(release_id: str, files: Files, signer: Signer) -> bytes:
    """Sign the release folder as `model_signing verify key` expects it, from the manifest's hashes alone.

    `files` are the manifest's; `manifest.json` itself is signed too, by the release's id, which is its sha256. So the
    folder is covered whole, and a verifier has nothing to ignore.

    Raises:
        SigningError: as `sign`.
    """
    envelope = envelope_of(_model_statement(release_id, files))
    sign(envelope, signer)
    return _json(_bundle(envelope))


def verify_model(signature: bytes, release_id: str, files: Files, public_key: Key) -> None:
    """Verify a signature of the release folder against the manifest's hashes.

    Raises:
        SigningError: the signature is damaged, by another key, does not hold, or is of another release.
    """
    name = f"the release's {MODEL_SUFFIX}"
    envelope = _model_envelope(signature, name)
    if public_key.keyid not in envelope.signatures:
        raise SigningError(f"{name} is by the key {', '.join(envelope.signatures)}, expected {public_key.keyid}")
    if not _signed_by(envelope, public_key):
        raise SigningError(f"{name} by {public_key.keyid} does not hold: it was made for other content")
    if difference := _difference(envelope, name, release_id, files):
        raise SigningError(f"{name} is of another release: {difference}")


def statement_names(store: Store, release_id: str) -> list[str]:
    """Return the names of the statements that are attached to a release; nothing of them is read."""
    return [name for name in sorted(store.names(_folder(release_id))) if name.endswith(ENVELOPE_SUFFIX)]


def stated_releases(store: Store) -> list[str]:
    """Return the ids below which attestations stand, whether or not there are such releases."""
    return list(dict.fromkeys(name.split("/")[1] for name in store.names("attestations/")))


def choose_statements(store: Store, release_id: str, named: Sequence[str]) -> list[str]:
    """Choose which of a release's statements to sign: the only one, or those that are named.

    Args:
        store: where the release is.
        release_id: its id.
        named: hashes of statements, or at least eight digits of each.

    Raises:
        SigningError: there are several, and none is named: anybody who may write to the store can have attached one;
            or a name fits none, or several.
    """
    names = statement_names(store, release_id)
    if not named and len(names) > 1:
        hashes = ", ".join(_stem(name) for name in names)
        raise SigningError(
            f"{len(names)} statements are attached to release {release_id}: {hashes}; read them (distar audit show), "
            "and name each that you will sign: --statement HASH"
        )
    chosen = []
    for text in named:
        fitting = [name for name in names if len(text) >= _SHORTEST_HASH and _stem(name).startswith(text)]
        if len(fitting) != 1:
            hashes = ", ".join(_stem(name) for name in names) or "none"
            raise SigningError(
                f"--statement: {text!r} names {len(fitting)} statements, expected the hash of one, or at least "
                f"{_SHORTEST_HASH} digits of it; attached are {hashes}"
            )
        chosen += fitting
    return list(dict.fromkeys(chosen)) if named else names


def sign_release(store: Store, release_id: str, files: Files, signer: Signer, statements: Sequence[str]) -> list[str]:
    """Sign statements that are attached to a published release, and its folder; return the names of what is signed.

    Args:
        store: where the release is.
        release_id: its id.
        files: those of its manifest.
        signer: the key.
        statements: names in the store, as `choose_statements` gives them: nothing that joined them since is signed.

    Raises:
        SigningError: as `sign`, or a statement is damaged or about another release: nothing is signed then.
    """
    for name in statements:
        if difference := _difference(open_attestation(store, name), name, release_id, files):
            raise SigningError(f"{name} is not about release {release_id}: {difference}; remove it, or find out why")
    for name in statements:
        _add_signature(store, name, signer)
    return [*statements, attach_model(store, release_id, files, signer)]


def check_signatures(store: Store, release_id: str, files: Files, public_keys: Iterable[Key]) -> list[Finding]:
    """Check all signatures of a release against the keys that are trusted; what is wrong is a finding, not an error."""
    keys = {key.keyid: key for key in public_keys}
    names = sorted(store.names(_folder(release_id)))
    return [finding for name in names for finding in _findings(store, name, release_id, files, keys)]


def _findings(store: Store, name: str, release_id: str, files: Files, keys: Mapping[str, Key]) -> Iterator[Finding]:
    try:
        envelope = open_attestation(store, name)
        difference = _difference(envelope, name, release_id, files)
    except (SigningError, ReleaseError, StorageError) as error:  # whatever one is, the others are checked
        yield Finding(name, None, "invalid", str(error))
        return
    if difference:
        yield Finding(name, None, "other release", difference)
        return
    if not envelope.signatures:
        yield Finding(name, None, "unsigned")
    for keyid in envelope.signatures:
        if keyid not in keys:
            yield Finding(name, keyid, "unknown key", "none of the trusted keys has this id")
        elif _signed_by(envelope, keys[keyid]):
            yield Finding(name, keyid, "valid")
        else:
            yield Finding(name, keyid, "invalid", "the signature does not hold: it was made for other content")


def _folder(release_id: str) -> str:
    return f"attestations/{release_id}/"


def _add_signature(store: Store, name: str, signer: Signer) -> None:
    while True:
        content, version = _read(store, name)
        envelope = _opened(content, name)
        if _signed_by(envelope, signer.public_key):
            return
        sign(envelope, signer)
        if store.replace(name, envelope_to_bytes(envelope), version):
            return


def _verifies(signature: bytes, release_id: str, files: Files, public_key: Key) -> bool:
    try:
        verify_model(signature, release_id, files, public_key)
    except SigningError:
        return False
    return True


def _signed_by(envelope: Envelope, key: Key) -> bool:
    signature: Signature | None = envelope.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, envelope.pae())
    except UnverifiedSignatureError:
        return False
    return True


def _read(store: Store, name: str) -> Document:
    found = store.read(name)
    if found is None:
        raise SigningError(f"{name} is no longer in the store; somebody removed it: publish the release again")
    return found


def open_attestation(store: Store, name: str) -> Envelope:
    """Read an attestation of either kind, and check that its name says what it holds; no signature is verified.

    Raises:
        SigningError: it is gone, damaged, or not what its name says.
    """
    return _opened(_read(store, name).content, name)


def _opened(content: bytes, name: str) -> Envelope:
    """Read an attestation of either kind, and check that its name says what it holds."""
    stem = name.rpartition("/")[2]
    if name.endswith(MODEL_SUFFIX):
        envelope = _model_envelope(content, name)
        if [*envelope.signatures] != [stem.removesuffix(MODEL_SUFFIX)]:
            raise SigningError(
                f"{name} holds a signature by {', '.join(envelope.signatures)}, not by the key in its name"
            )
        return envelope
    if not name.endswith(ENVELOPE_SUFFIX):
        raise SigningError(f"{name}: expected a name that ends with {ENVELOPE_SUFFIX} or {MODEL_SUFFIX}")
    envelope = envelope_from_bytes(content, name)
    got = hashlib.sha256(envelope.payload).hexdigest()
    if got != stem.removesuffix(ENVELOPE_SUFFIX):
        raise SigningError(f"{name} was changed: its payload has the sha256 {got}, expected the one in its name")
    return envelope


def _difference(envelope: Envelope, name: str, release_id: str, files: Files) -> str:
    """Say how an attestation is about something else than a release; an empty text if it is about it.

    Raises:
        SigningError: the payload is not a statement that can be read in one way only.
    """
    if name.endswith(MODEL_SUFFIX):
        same = envelope.payload == envelope_of(_model_statement(release_id, files)).payload
        return "" if same else "it lists other files or hashes"
    statement, expected = _parsed(envelope.payload, name), _digests(release_id, files)
    try:
        names = [subject["name"] for subject in statement["subject"]]
        digests = [subject["digest"] for subject in statement["subject"]]
        wrong = [
            name
            for name, digest in zip(names, digests, strict=True)
            if name not in expected or digest != {"sha256": expected[name]}
        ]
        understood = statement["_type"] == STATEMENT_TYPE and _canonical(statement) == envelope.payload
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SigningError(f"{name} holds no in-toto statement ({type(error).__name__}: {error})") from error
    if not understood:
        raise SigningError(f"{name} holds no statement of the type {STATEMENT_TYPE} as canonical JSON")
    if wrong:
        return f"of its subjects, these are no files of this release: {', '.join(map(repr, wrong[:3]))}"
    return "" if MANIFEST in names else f"{MANIFEST} is not among its subjects"


def _model_statement(release_id: str, files: Files) -> dict[str, Any]:
    digests = _digests(release_id, files)
    names = sorted(digests, key=PurePosixPath)  # model-signing's order
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in names))
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": release_id, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": MODEL_PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names],
        },
    }


def _digests(release_id: str, files: Files) -> dict[str, str]:
    return {MANIFEST: release_id} | {name: str(pin["sha256"]) for name, pin in files.items()}


def _bundle(envelope: Envelope) -> dict[str, Any]:
    """Wrap a signed envelope as model-signing reads it."""
    [keyid] = envelope.signatures
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": keyid}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }


def _model_envelope(content: bytes, name: str) -> Envelope:
    bundle = _parsed(content, name)
    envelope = _envelope(bundle.get("dsseEnvelope") if isinstance(bundle, dict) else None, name)
    if len(envelope.signatures) != 1 or bundle != _bundle(envelope):
        raise SigningError(f"{name} is not a signature as `distar release sign` writes it; remove it and sign again")
    return envelope


def _envelope(data: Any, name: str) -> Envelope:
    if not isinstance(data, dict) or data.keys() != {"payload", "payloadType", "signatures"}:
        raise SigningError(f"{name} is damaged: it is not a DSSE envelope of payload, payloadType and signatures alone")
    try:
        envelope = Envelope.from_dict(copy.deepcopy(data))  # it takes what it reads out of its argument
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SigningError(f"{name} is damaged: it is not a DSSE envelope ({type(error).__name__}: {error})") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SigningError(f"{name}: got the payload type {envelope.payload_type!r}, expected {PAYLOAD_TYPE!r}")
    if not all(isinstance(keyid, str) for keyid in envelope.signatures):
        raise SigningError(f"{name} is damaged: a signature's key is named by something else than text")
    return envelope


def _parsed(content: bytes, name: str) -> Any:
    try:
        return read_json(content, name, SigningError)
    except SigningError as error:
        raise SigningError(f"{error}; it is damaged: remove it, and sign or publish again") from None


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(ENVELOPE_SUFFIX)


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
