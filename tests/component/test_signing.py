"""Signatures: made from the manifest alone, joined in a store, accepted by others' tools; what is wrong is named."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Signer

from distar.__main__ import main
from distar.errors import SigningError
from distar.hashing import pin_folder
from distar.release import signing
from distar.release.keys import PASSPHRASE, generate_key, key_id, load_signer, load_verifier
from distar.release.local import LocalStore
from distar.release.package import write_manifest
from distar.release.releases import publish
from distar.release.storage import Store
from tests.miniature import REPOSITORY

PEM, PKCS8, PLAIN = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


class Attestations(MutableMapping[str, bytes]):
    """The files of a store's attestations, for whoever may write to the folder, past the store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def __setitem__(self, name: str, content: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content)

    def __delitem__(self, name: str) -> None:
        (self.root / name).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.relative_to(self.root).as_posix() for path in sorted(self.root.glob("attestations/*/*")))

    def __len__(self) -> int:
        return len(list(iter(self)))


class Release:
    """A release folder, its manifest, a statement about it, and a store that it is attached in."""

    def __init__(self, folder: Path) -> None:
        for name, content in {
            "unet/weights.safetensors": b"weights",
            "unet-notes.txt": b"notes",
            "a b.json": b"",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.folder, self.files = folder, pin_folder(folder)
        self.id = write_manifest(folder)
        subjects = {"manifest.json": self.id} | {name: pin["sha256"] for name, pin in self.files.items()}
        self.statement: dict[str, Any] = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {"runDetails": {"builder": {"id": "urn:distar:dvc"}}, "note": "é ★"},
        }
        self.root = folder.with_name(f"{folder.name} store")
        self.store: Store = LocalStore(f"file://{self.root}", self.root)
        self.objects = Attestations(self.root)

    def check(self, *public_keys: Path) -> list[tuple[str, str | None, str]]:
        """Return (kind, key, status) of every finding."""
        found = signing.check_signatures(self.store, self.id, self.files, [load_verifier(key) for key in public_keys])
        return [(finding.attestation.partition(".")[2], finding.keyid, finding.status) for finding in found]


def signed_by(release: Release, signer: Signer) -> list[str]:
    """Sign all that is attached to a release, whose statements are all known here, and its folder."""
    names = signing.statement_names(release.store, release.id)
    return signing.sign_release(release.store, release.id, release.files, signer, names)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / "release")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path / "key")


def new_key(path: Path) -> Path:
    generate_key(path)
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def id_of(key: Path) -> str:
    return load_verifier(public(key)).keyid


def write_key(path: Path, private: Any) -> Path:
    path.write_bytes(private.private_bytes(PEM, PKCS8, PLAIN))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public(path).write_bytes(private.public_key().public_bytes(PEM, spki))
    return path


# Keys


def test_a_new_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "key"
    assert main(["release", "keygen", str(path)]) == 0
    private = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert id_of(path) in capsys.readouterr().out
    assert load_signer(str(path)).public_key == load_verifier(public(path))
    assert main(["release", "keygen", str(path)]) == 1
    assert f"{path} exists" in capsys.readouterr().err
    public(path).unlink()
    assert main(["release", "keygen", str(path)]) == 1
    assert (path.read_bytes(), public(path).exists()) == (private, False)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert main(["release", "keygen", str(link)]) == 1
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_of_a_key_that_the_disk_does_not_hold_nothing_remains(tmp_path: Path) -> None:
    """The operating system lets this process write no byte to a file, as a full disk would."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    command = [sys.executable, "-B", "-m", "distar", "release", "keygen", str(tmp_path / "key")]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 1
    assert "the key cannot be written" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    path = new_key(tmp_path / "key")
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_signer(str(path)).public_key.keyid == id_of(path)
    for wrong in ("wrong horse", ""):
        monkeypatch.setenv(PASSPHRASE, wrong)
        with pytest.raises(SigningError, match=f"no private key that opens.*{PASSPHRASE}"):
            load_signer(str(path))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_key_is_named_as_model_signing_names_it(tmp_path: Path, release: Release, curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    path = write_key(tmp_path / "key", private)
    assert id_of(path) == hashlib.sha256(public(path).read_bytes()).hexdigest() == key_id(private.public_key())
    signature = signing.sign_model(release.id, release.files, load_signer(str(path)))
    (tmp_path / "model.sig").write_bytes(signature)
    from model_signing import verifying

    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public(path))
    verifier.verify(release.folder, tmp_path / "model.sig")


def test_unusable_keys_are_told_and_a_key_itself_is_never_repeated(tmp_path: Path) -> None:
    text = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1())).read_text()
    with pytest.raises(SigningError, match="expected the path") as told:
        load_signer(text)
    assert text.splitlines()[1] not in str(told.value)
    with pytest.raises(SigningError, match=r"absent: No such file.*awskms:, gcpkms:, azurekms:, hsm:"):
        load_signer(str(tmp_path / "absent"))
    with pytest.raises(SigningError, match="no private key"):
        load_signer(str(public(tmp_path / "key")))
    with pytest.raises(SigningError, match="no public key"):
        load_verifier(tmp_path / "key")
    with pytest.raises(SigningError, match="No such file"):
        load_verifier(tmp_path / "absent")
    for private in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        other = write_key(tmp_path / "other", private)
        with pytest.raises(SigningError, match="expected one on the curve P-256, P-384 or P-521"):
            load_signer(str(other))
        with pytest.raises(SigningError, match="expected one on the curve P-256, P-384 or P-521"):
            load_verifier(public(other))


# Attestations


def test_a_statement_is_attached_once_and_signatures_join_it(release: Release, tmp_path: Path) -> None:
    keys = [new_key(tmp_path / f"key{i}") for i in range(2)]
    name = signing.attach(release.store, release.id, release.statement, None)
    envelope = json.loads(release.objects[name])
    payload = base64.b64decode(envelope["payload"])
    assert name == f"attestations/{release.id}/{hashlib.sha256(payload).hexdigest()}.intoto.json"
    assert (json.loads(payload), envelope["signatures"]) == (release.statement, [])
    assert payload == json.dumps(release.statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert release.check() == [("intoto.json", None, "unsigned")]
    for key in (keys[0], keys[1], keys[0]):
        reordered = dict(reversed(release.statement.items()))
        assert signing.attach(release.store, release.id, reordered, load_signer(str(key))) == name
    assert list(release.objects) == [name]
    assert release.check(*map(public, keys)) == [("intoto.json", id_of(key), "valid") for key in keys]


def test_a_signature_that_another_made_meanwhile_is_kept(release: Release, tmp_path: Path) -> None:
    mine, other = new_key(tmp_path / "mine"), new_key(tmp_path / "other")

    class Contended(LocalStore):
        def replace(self, name: str, content: bytes, version: str) -> bool:
            if others:
                signing.attach(self, release.id, release.statement, others.pop())
            return super().replace(name, content, version)

    others: list[Signer] = [load_signer(str(other))]
    release.store = Contended(f"file://{release.root}", release.root)
    signing.attach(release.store, release.id, release.statement, load_signer(str(mine)))
    assert others == []
    assert release.check(public(mine), public(other)) == [("intoto.json", id_of(key), "valid") for key in (other, mine)]


def test_a_published_release_is_signed_later_as_a_whole(release: Release, key: Path) -> None:
    signing.attach(release.store, release.id, release.statement, None)
    signing.attach(release.store, release.id, release.statement | {"predicate": {}}, None)
    signer = load_signer(str(key))
    names = signed_by(release, signer)
    assert sorted(names) == sorted(release.objects)
    kinds = sorted([("intoto.json", id_of(key), "valid")] * 2 + [("model.sig", id_of(key), "valid")])
    assert sorted(release.check(public(key))) == kinds
    before = dict(release.objects)
    signed_by(release, signer)
    assert release.objects == before


def test_the_command_signs_a_release_of_a_store(release: Release, key: Path, capsys: Any) -> None:
    review = {**release.statement, "predicateType": "https://example.org/review/v1"}
    publish(release.store, release.folder, lambda release_id: attached(release, release_id, review))
    command = ["release", "sign", release.id[:12], "--key", str(key), "--store", release.store.url, "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["release"], told["key"], sorted(told["signed"])) == (release.id, id_of(key), list(release.objects))
    assert [status for _, _, status in release.check(public(key))] == ["valid", "valid"]
    assert main([*command[:4], "absent", *command[5:]]) == 1
    assert "absent: No such file" in capsys.readouterr().err


def attached(release: Release, release_id: str, *statements: dict[str, Any]) -> None:
    for statement in statements:
        signing.attach(release.store, release_id, statement, None)


def test_of_several_statements_each_is_signed_by_name_alone(release: Release, key: Path, capsys: Any) -> None:
    review = {**release.statement, "predicateType": "https://example.org/review/v1"}
    planted = {**review, "predicate": {"planted": True}}
    publish(release.store, release.folder, lambda release_id: attached(release, release_id, review, planted))
    before = dict(release.objects)
    command = ["release", "sign", release.id, "--key", str(key), "--store", release.store.url]
    assert main(command) == 1
    told = capsys.readouterr().err
    hashes = [name.partition(".")[0].rpartition("/")[2] for name in before]
    assert all(one in told for one in hashes)
    assert "--statement HASH" in told
    for wrong in ("0" * 64, hashes[0][:7], ""):
        assert main([*command, "--statement", wrong]) == 1
    assert dict(release.objects) == before
    assert main([*command, "--statement", hashes[0][:12]]) == 0
    told = capsys.readouterr().out
    assert told.index("to be signed") < told.index(f"signed by {id_of(key)}")
    found = signing.check_signatures(release.store, release.id, release.files, [load_verifier(public(key))])
    signed = {one.attestation.rpartition("/")[2] for one in found if one.status == "valid"}
    assert signed == {f"{hashes[0]}.intoto.json", f"{id_of(key)}.model.sig"}


def test_provenance_that_cannot_be_read_is_not_signed(release: Release, key: Path, capsys: Any) -> None:
    publish(release.store, release.folder, lambda release_id: attached(release, release_id, release.statement))
    before = dict(release.objects)
    assert main(["release", "sign", release.id, "--key", str(key), "--store", release.store.url]) == 1
    assert "the statement does not have the form" in capsys.readouterr().err
    assert dict(release.objects) == before


def test_a_file_with_two_public_keys_is_refused(tmp_path: Path, key: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes(public(key).read_bytes() + public(new_key(tmp_path / "other")).read_bytes())
    with pytest.raises(SigningError, match="holds 2 keys, expected one"):
        load_verifier(both)


def test_a_false_signature_in_a_keys_name_gives_way_to_a_true_one(release: Release, key: Path) -> None:
    signing.attach(release.store, release.id, release.statement, load_signer(str(key)))
    signed_by(release, load_signer(str(key)))
    for name in release.objects:
        corrupt_signature(release.objects, name)
    assert {status for _, _, status in release.check(public(key))} == {"invalid"}
    signed_by(release, load_signer(str(key)))
    assert {status for _, _, status in release.check(public(key))} == {"valid"}


def test_what_is_about_another_release_is_not_signed(release: Release, key: Path, tmp_path: Path) -> None:
    other = Release(tmp_path / "other")
    subjects = [{"name": "manifest.json", "digest": {"sha256": "0" * 64}}]
    for extra in (subjects, [*release.statement["subject"], *subjects]):
        release.objects.clear()
        signing.attach(release.store, release.id, release.statement, None)
        signing.attach(release.store, release.id, other.statement | {"subject": extra}, None)
        before = dict(release.objects)
        with pytest.raises(SigningError, match=f"is not about release {release.id}"):
            signed_by(release, load_signer(str(key)))
        assert release.objects == before


def test_a_statement_that_the_store_holds_damaged_is_not_taken_for_attached(release: Release) -> None:
    name = signing.attach(release.store, release.id, release.statement, None)
    release.objects[name] = edited(release.objects[name], b"urn:distar:dvc", b"urn:distar:dvd")
    with pytest.raises(SigningError, match="was changed: its payload has the sha256"):
        signing.attach(release.store, release.id, release.statement, None)


# What is wrong with signatures


def corrupt_signature(objects: Attestations, name: str) -> None:
    data = json.loads(objects[name])
    [signature] = data.get("dsseEnvelope", data)["signatures"]
    content = bytearray(base64.b64decode(signature["sig"]))
    content[-1] ^= 1
    signature["sig"] = base64.b64encode(content).decode()
    objects[name] = (json.dumps(data, indent=2) + "\n").encode()


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    """Edit the payload of an envelope, or of the one in a bundle, leaving its signatures."""
    data = json.loads(content)
    envelope = data.get("dsseEnvelope", data)
    payload = base64.b64decode(envelope["payload"])
    assert old in payload
    envelope["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    return json.dumps(data).encode()


def rename_to_fit(objects: Attestations, name: str) -> None:
    """Give an edited envelope the name that its payload asks for."""
    content = objects.pop(name)
    payload = base64.b64decode(json.loads(content)["payload"])
    new = f"{name.rpartition('/')[0]}/{hashlib.sha256(payload).hexdigest()}.intoto.json"
    objects[new] = content


def statuses(release: Release, *public_keys: Path) -> list[tuple[str, str]]:
    keys = [load_verifier(path) for path in public_keys]
    found = signing.check_signatures(release.store, release.id, release.files, keys)
    return [(finding.status, finding.detail) for finding in found]


def test_a_key_that_is_not_trusted_is_unknown(release: Release, key: Path, tmp_path: Path) -> None:
    signed_by(release, load_signer(str(key)))
    stranger = new_key(tmp_path / "stranger")
    assert release.check(public(stranger)) == [("model.sig", id_of(key), "unknown key")]


def test_an_edited_payload_is_found_under_its_old_name_and_under_a_fitting_one(release: Release, key: Path) -> None:
    name = signing.attach(release.store, release.id, release.statement, load_signer(str(key)))
    release.objects[name] = edited(release.objects[name], b"urn:distar:dvc", b"urn:distar:dvd")
    [(status, detail)] = statuses(release, public(key))
    assert (status, detail.partition(":")[0]) == ("invalid", f"{name} was changed")
    rename_to_fit(release.objects, name)
    assert release.check(public(key)) == [("intoto.json", id_of(key), "invalid")]


def test_a_signature_of_another_release_is_not_this_ones(release: Release, key: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "extra.txt").touch()
    other, signer = Release(tmp_path / "other"), load_signer(str(key))
    signing.attach(other.store, other.id, other.statement, signer)
    signed_by(other, signer)
    for name, content in other.objects.items():
        release.objects[name.replace(other.id, release.id)] = content
    assert {status for status, _ in statuses(release, public(key))} == {"other release"}
    model = other.objects[f"attestations/{other.id}/{id_of(key)}.model.sig"]
    with pytest.raises(SigningError, match="of another release"):
        signing.verify_model(model, release.id, release.files, load_verifier(public(key)))


def test_provenance_does_not_pass_for_a_signature_of_the_model(release: Release, key: Path) -> None:
    name = signing.attach(release.store, release.id, release.statement, load_signer(str(key)))
    bundle = {
        "mediaType": signing.BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": id_of(key)}, "tlogEntries": []},
        "dsseEnvelope": json.loads(release.objects.pop(name)),
    }
    release.objects[f"attestations/{release.id}/{id_of(key)}.model.sig"] = json.dumps(bundle).encode()
    assert release.check(public(key)) == [("model.sig", None, "other release")]


def test_a_signature_in_another_keys_name_is_found(release: Release, key: Path) -> None:
    signed_by(release, load_signer(str(key)))
    [name] = release.objects
    release.objects[name.replace(id_of(key), "0" * 64)] = release.objects.pop(name)
    [(status, detail)] = statuses(release, public(key))
    assert status == "invalid"
    assert "not by the key in its name" in detail


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no payload": lambda envelope: envelope.pop("payload"),
    "payload of another type": lambda envelope: envelope.update(payload=7),
    "payload not base64": lambda envelope: envelope.update(payload="a"),
    "another payload type": lambda envelope: envelope.update(payloadType="text/plain"),
    "signatures of another type": lambda envelope: envelope.update(signatures=7),
    "signature without key": lambda envelope: envelope["signatures"][0].pop("keyid"),
    "key named by a number": lambda envelope: envelope["signatures"][0].update(keyid=7),
    "key named by a list": lambda envelope: envelope["signatures"][0].update(keyid=[]),
    "one key twice": lambda envelope: envelope["signatures"].append(envelope["signatures"][0]),
    "a signature that is null": lambda envelope: envelope["signatures"].append(None),
}


@pytest.mark.parametrize("kind", ["intoto.json", "model.sig"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_attestation_is_a_finding(release: Release, key: Path, damage: str, kind: str) -> None:
    signing.attach(release.store, release.id, release.statement, load_signer(str(key)))
    signed_by(release, load_signer(str(key)))
    [name] = [name for name in release.objects if name.endswith(kind)]
    data = json.loads(release.objects[name])
    DAMAGES[damage](data.get("dsseEnvelope", data))
    release.objects.clear()
    release.objects[name] = json.dumps(data).encode()
    [(status, detail)] = statuses(release, public(key))
    assert status == "invalid"
    assert name in detail


@pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"[]", b"{}", b"{", b"[" * 100_000, b'{"payload": NaN}'])
@pytest.mark.parametrize("kind", ["intoto.json", "model.sig", "txt"])
def test_what_is_no_attestation_at_all_is_a_finding(release: Release, content: bytes, kind: str) -> None:
    name = f"attestations/{release.id}/{'0' * 64}.{kind}"
    release.objects[name] = content
    [(status, detail)] = statuses(release)
    assert status == "invalid"
    assert name in detail


STATEMENTS: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "invalid"),
    "not an object": (b"[]", "invalid"),
    "no subjects": (b'{"_type":"https://in-toto.io/Statement/v1"}', "invalid"),
    "subjects of another type": (b'{"_type":"https://in-toto.io/Statement/v1","subject":[[]]}', "invalid"),
    "subject named by a list": (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{},"name":[]}]}',
        "invalid",
    ),
    "another type": (b'{"_type":"https://in-toto.io/Statement/v0","subject":[]}', "invalid"),
    "read in two ways": (b'{"_type":"https://in-toto.io/Statement/v1","subject":[],"subject":[]}', "invalid"),
    "no Unicode": (b'{"_type":"https://in-toto.io/Statement/v1","a":"\\ud800","subject":[]}', "invalid"),
    "no subject": (b'{"_type":"https://in-toto.io/Statement/v1","subject":[]}', "other release"),
    "a subject that is no file": (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":""},"name":"x"}]}',
        "other release",
    ),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_signed_payload_that_says_nothing_of_this_release_is_a_finding(
    release: Release, key: Path, statement: str
) -> None:
    payload, status = STATEMENTS[statement]
    envelope = signing.Envelope(payload, signing.PAYLOAD_TYPE, {})
    signing.sign(envelope, load_signer(str(key)))
    name = f"attestations/{release.id}/{hashlib.sha256(payload).hexdigest()}.intoto.json"
    release.objects[name] = signing.envelope_to_bytes(envelope)
    assert [found for found, _ in statuses(release, public(key))] == [status]


# The tools of others


def model_signing(release: Release, signature: Path, key: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(release.folder)]
    command += ["--signature", str(signature), "--public_key", str(public(key))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_model_signing_command_accepts_the_folder_and_finds_what_was_done_to_it(
    release: Release, key: Path, tmp_path: Path
) -> None:
    signed_by(release, load_signer(str(key)))
    [content] = release.objects.values()
    signature = release.folder / "model.sig"  # where the command itself would put it
    signature.write_bytes(content)
    assert model_signing(release, signature, key).returncode == 0
    stranger = model_signing(release, signature, new_key(tmp_path / "stranger"))
    assert stranger.returncode == 1
    assert "Key mismatch" in stranger.stderr
    (release.folder / "unet" / "weights.safetensors").write_bytes(b"weightz")
    (release.folder / "extra.txt").touch()
    with (release.folder / "manifest.json").open("a") as file:
        file.write("\n")
    changed = model_signing(release, signature, key)
    assert changed.returncode == 1
    for complaint in ("Extra files", "extra.txt", "'unet/weights.safetensors'", "'manifest.json'"):
        assert complaint in changed.stderr


def test_a_statement_of_model_signing_itself_is_the_same(release: Release, key: Path, tmp_path: Path) -> None:
    from model_signing import signing as theirs

    theirs.Config().use_elliptic_key_signer(private_key=key).sign(release.folder, tmp_path / "model.sig")
    ours = json.loads(signing.sign_model(release.id, release.files, load_signer(str(key))))
    their_bundle = json.loads((tmp_path / "model.sig").read_text())
    statements = [json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) for bundle in (ours, their_bundle)]
    their_serialization = statements[1]["predicate"].pop("serialization")
    assert their_serialization.items() >= statements[0]["predicate"].pop("serialization").items()
    assert statements[0]["subject"][0]["digest"] == statements[1]["subject"][0]["digest"]
    assert statements[0]["predicate"] == statements[1]["predicate"]
    assert ours["verificationMaterial"] == their_bundle["verificationMaterial"]
    assert ours["mediaType"] == their_bundle["mediaType"]


def test_the_statement_is_one_that_in_toto_reads(release: Release) -> None:
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    payload = signing.envelope_of(release.statement).payload
    parsed = json_format.Parse(payload, statement_pb2.Statement())  # pyright: ignore[reportAttributeAccessIssue]
    Statement.copy_from_pb(parsed).validate()


def test_the_documented_check_holds_and_finds_an_edited_statement(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs" / "signing.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    key = new_key(tmp_path / "release-key")
    name = signing.attach(release.store, release.id, release.statement, load_signer(str(key)))
    envelope = tmp_path / "provenance.intoto.json"
    envelope.write_bytes(release.objects[name])
    exec(program, {})  # noqa: S102  the page's own program
    envelope.write_bytes(edited(release.objects[name], b"urn:distar:dvc", b"urn:distar:dvd"))
    with pytest.raises(VerificationError):
        exec(program, {})  # noqa: S102


# Keys in a service


class KeyService(BaseHTTPRequestHandler):
    """What AWS's key management answers to GetPublicKey and Sign."""

    private: Any
    signs_with: Any

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["KeyId"] == "alias/release"
        match self.headers["X-Amz-Target"]:
            case "TrentService.GetPublicKey":
                form = serialization.PublicFormat.SubjectPublicKeyInfo
                der = self.private.public_key().public_bytes(serialization.Encoding.DER, form)
                answer = {"PublicKey": base64.b64encode(der).decode(), "SigningAlgorithms": ["ECDSA_SHA_256"]}
            case _:
                assert self.headers["X-Amz-Target"] == "TrentService.Sign"
                assert request["MessageType"] == "DIGEST"
                digest = base64.b64decode(request["Message"])
                signature = self.signs_with.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
                answer = {"Signature": base64.b64encode(signature).decode()}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
        """Print nothing."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[KeyService]]:
    private = ec.generate_private_key(ec.SECP256R1())
    service = type("Service", (KeyService,), {"private": private, "signs_with": private})
    server = ThreadingHTTPServer(("127.0.0.1", 0), service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "test")
    yield service
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_key_in_aws_signs_both_and_the_model_signing_command_accepts_it(
    release: Release, tmp_path: Path, aws: type[KeyService]
) -> None:
    path = write_key(tmp_path / "key", aws.private)
    signer = load_signer("awskms:alias/release")
    assert signer.public_key.keyid == id_of(path)
    signing.attach(release.store, release.id, release.statement, signer)
    signed_by(release, signer)
    assert [status for _, _, status in release.check(public(path))] == ["valid", "valid"]
    signature = tmp_path / "model.sig"
    signature.write_bytes(release.objects[f"attestations/{release.id}/{id_of(path)}.model.sig"])
    assert model_signing(release, signature, path).returncode == 0


def test_a_service_that_signs_with_another_key_is_found_out(release: Release, aws: type[KeyService]) -> None:
    signer = load_signer("awskms:alias/release")
    aws.signs_with = ec.generate_private_key(ec.SECP256R1())
    name = signing.attach(release.store, release.id, release.statement, None)
    with pytest.raises(SigningError, match="does not verify with its public half"):
        signed_by(release, signer)
    assert json.loads(release.objects[name])["signatures"] == []


def test_a_service_that_refuses_or_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "test")
    with pytest.raises(SigningError, match="awskms:alias/release cannot be opened: EndpointConnectionError"):
        load_signer("awskms:alias/release")
    uris = ("gcpkms:projects/p/cryptoKeyVersions/1", "azurekms://vault.vault.azure.net/keys/name", "hsm:2?label=token")
    for uri in uris:
        extra = uri.partition(":")[0]
        with pytest.raises(SigningError, match=rf"{extra}:.*pip install 'securesystemslib\[{extra}\]'"):
            load_signer(uri)
    with pytest.raises(SigningError, match="expected azurekms://VAULT"):
        load_signer("azurekms://vault.vault.azure.net/keys/name/version")
