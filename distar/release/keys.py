"""Keys that sign releases: elliptic-curve keys in PEM files, or in a service that never gives them away."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import AWSSigner, AzureSigner, CryptoSigner, GCPSigner, HSMSigner, Key, Signer, SSlibKey

from distar.errors import SigningError

PASSPHRASE = "DISTAR_KEY_PASSPHRASE"  # noqa: S105  the variable's name
SERVICES = ("awskms", "gcpkms", "azurekms", "hsm")  # schemes of URIs, and securesystemslib's names of its extras

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def key_id(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 of a key's SubjectPublicKeyInfo as PEM, which is what model-signing names keys by."""
    return hashlib.sha256(_pem(public_key)).hexdigest()


def generate_key(path: Path) -> str:
    """Write a new P-256 key: the private half to `path`, for its owner alone, the public one to `path`.pub.

    The private half is encrypted if `DISTAR_KEY_PASSPHRASE` is set. Returns the key's id.

    Raises:
        SigningError: one of the two files exists already, or cannot be written.
    """
    private, passphrase = ec.generate_private_key(ec.SECP256R1()), _passphrase()
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    halves = {
        path: (private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock), 0o600),
        path.with_name(f"{path.name}.pub"): (_pem(private.public_key()), 0o644),
    }
    for half in halves:
        if half.exists():
            raise SigningError(f"{half} exists; choose another name: a key that signed releases is never overwritten")
    made: list[Path] = []
    try:
        for half, (content, mode) in halves.items():
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(half)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except BaseException as error:
        for half in made:  # half a key would stand in the way of the next
            half.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise SigningError(f"the key cannot be written: {error}; choose a folder that exists and is yours") from error
    return key_id(private.public_key())


def load_signer(key: str, project: Path = Path()) -> Signer:
    """Open a private key: the path of a PEM file, or the URI of a key that never leaves its service.

    The path is relative to the project's folder. URIs begin with `awskms:`, `gcpkms:`, `azurekms:` or `hsm:`, as in
    securesystemslib; the service is asked for the public half. `DISTAR_KEY_PASSPHRASE` opens encrypted files, and is
    an HSM's PIN.

    Raises:
        SigningError: the key is not there, cannot be opened, or is not on the curve P-256, P-384 or P-521.
    """
    if "PRIVATE KEY" in key:
        raise SigningError("got a private key itself, expected the path of its file; a key in a command is a key lost")
    if key.partition(":")[0] in SERVICES:
        return _service_signer(key)
    try:
        private = serialization.load_pem_private_key((project / key).read_bytes(), _passphrase())
    except OSError as error:
        schemes = ", ".join(f"{name}:" for name in SERVICES)
        raise SigningError(f"{key}: {error.strerror}; expected the path of a PEM file, or a URI ({schemes})") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"{key} holds no private key that opens ({error}); expected PEM; if it is encrypted, set {PASSPHRASE}"
        ) from error
    public = _named_key(private.public_key(), key)
    return CryptoSigner(private, public)  # pyright: ignore[reportArgumentType]  _named_key took elliptic curves alone


def load_verifier(path: Path) -> Key:
    """Read a public key from a PEM file.

    Raises:
        SigningError: the file is missing, holds no public key or several, or one on another curve than P-256, P-384 or
            P-521.
    """
    try:
        content = path.read_bytes()
        if (count := content.count(b"-----BEGIN ")) > 1:
            raise SigningError(f"{path} holds {count} keys, expected one; give each key a file of its own")
        return _named_key(serialization.load_pem_public_key(content), str(path))
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}; expected the path of a public key (PEM)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"{path} holds no public key ({error}); expected PEM (BEGIN PUBLIC KEY)") from error


def _service_signer(uri: str) -> Signer:
    """Open a key of a service, whose public half it is asked for."""
    try:
        opened, public = _asked_of_service(uri)
        public = _named_key(serialization.load_pem_public_key(public.keyval["public"].encode()), uri)
        return Signer.from_priv_key_uri(opened, public, _pin)
    except SigningError:
        raise
    except UnsupportedLibraryError as error:
        extra = uri.partition(":")[0]
        raise SigningError(f"{uri}: {error} Install it: pip install 'securesystemslib[{extra}]'") from error
    except Exception as error:  # as in `sign`
        raise SigningError(f"{uri} cannot be opened: {type(error).__name__}: {error}") from error


def _asked_of_service(uri: str) -> tuple[str, SSlibKey]:
    url = urlparse(uri)
    match url.scheme:
        case "awskms":
            return AWSSigner.import_(uri.partition(":")[2])
        case "gcpkms":
            return GCPSigner.import_(url.path)
        case "azurekms":
            match = re.fullmatch(r"azurekms://([^./]+)\.vault\.azure\.net/keys/([^/]+)", uri)
            if match is None:  # a version is not taken: the vault tells the newest one's public half alone
                raise SigningError(f"{uri}: expected azurekms://VAULT.vault.azure.net/keys/NAME")
            return AzureSigner.import_(*match.groups())
        case _:
            label = parse_qs(url.query).get("label", [None])[0]
            return HSMSigner.import_(int(url.path) if url.path else None, label, _pin)


def _pem(public_key: ec.EllipticCurvePublicKey) -> bytes:
    return public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _passphrase() -> bytes | None:
    passphrase = os.environ.get(PASSPHRASE)
    return passphrase.encode() if passphrase else None


def _pin(_: str) -> str:
    pin = os.environ.get(PASSPHRASE)
    if not pin:
        raise SigningError(f"the HSM asks for its PIN; set {PASSPHRASE}")
    return pin


def _named_key(public_key: object, origin: str) -> SSlibKey:
    """Give a public key the id that both kinds of signature name it by."""
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, _CURVES):
        raise SigningError(
            f"{origin}: got a key of another kind, expected one on the curve P-256, P-384 or P-521, which "
            "model-signing asks for; make one with `distar release keygen PATH`"
        )
    return SSlibKey.from_crypto(public_key, key_id(public_key))
