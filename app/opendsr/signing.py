"""Signatures of answers and callbacks: base64 of a signature of the whole body.

With the operator's key (RSA: PKCS#1 v1.5 with SHA-256, as platforms expect it; or Ed25519), else with an Ed25519 key
that is derived from the service's master secret. Certificates, which the specification asks for, are the operator's
business.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.config import Settings
from app.errors import ServiceError
from app.secret import derive

SigningKey = RSAPrivateKey | Ed25519PrivateKey


class KeyUnusable(ServiceError):
    """The operator's key can not sign."""

    status, type, title = 500, "signing-key-unusable", "The key that signs OpenDSR answers can not be used"
    mend = "GRAIL_OPENDSR_KEY_FILE names a PEM file with an RSA or Ed25519 private key without a password."


def signing_key(settings: Settings) -> SigningKey:
    """The key. Raises KeyUnusable, NoMasterSecret."""
    if settings.opendsr_key_file is None:
        return Ed25519PrivateKey.from_private_bytes(derive("opendsr"))
    return _read(settings.opendsr_key_file)


def signature(key: SigningKey, body: bytes) -> str:
    """Base64 of the signature of `body`."""
    if isinstance(key, Ed25519PrivateKey):
        signed = key.sign(body)
    else:
        signed = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    return base64.b64encode(signed).decode()


def public_pem(key: SigningKey) -> str:
    """What verifies, as PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _read(path: Path) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusable("the key file can not be read") from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise KeyUnusable("the key is neither RSA nor Ed25519")
    return key
