"""A `model.sig` beside an adapter version's files, which the `model_signing` package verifies.

That is a Sigstore bundle with a DSSE envelope of an in-toto statement. For a key without certificate the package takes
ECDSA on P-256, P-384 or P-521 alone, never Ed25519: so versions are signed with a second key, of P-256.

    model_signing verify key DIR --signature DIR/model.sig --public_key key.pub --ignore-paths DIR/manifest.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from app.trust.keys import KeyUnusable
from app.trust.verify import ODD, PAYLOAD_TYPE, STATEMENT_TYPE, base64_of, pae, parse_json, unbase64

PREDICATE = "https://model_signing/signature/v1.0"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "model.sig"


class ModelSigner(Protocol):
    """Signs with ECDSA on P-256 over SHA-256; a key service can."""

    @property
    def public_pem(self) -> bytes:
        """The public key, SubjectPublicKeyInfo in PEM."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature, DER."""
        ...


class P256Signer:
    """A key in this process's memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise KeyUnusable("the key for model signatures is on the curve P-256")
        self._key = key
        self.public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def from_pem(cls, pem: bytes, password: bytes | None = None) -> P256Signer:
        """PKCS #8 or SEC 1. Raises KeyUnusable."""
        try:
            key = load_pem_private_key(pem, password)
        except (ValueError, TypeError):
            raise KeyUnusable("not a private key in PEM, or the password is wrong or missing") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyUnusable("the key for model signatures is on the curve P-256")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """ECDSA, not deterministic."""
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


def sign_model(name: str, files: Mapping[str, str], signer: ModelSigner, ignored: tuple[str, ...] = ()) -> bytes:
    """The bytes of `model.sig` for a directory of files (name -> SHA-256 in hex); `ignored` are files in it that are
    not
    signed, as the signature itself is not."""
    resources = [{"name": file, "algorithm": "sha256", "digest": files[file]} for file in sorted(files)]
    over = hashlib.sha256(b"".join(bytes.fromhex(files[file]) for file in sorted(files))).hexdigest()
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": sorted({SIGNATURE, *ignored}),
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": over}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    payload = json.dumps(statement, sort_keys=True).encode()
    signed = [{"sig": base64_of(signer.sign(pae(payload))), "keyid": ""}]
    material = {"publicKey": {"hint": hashlib.sha256(signer.public_pem).hexdigest()}, "tlogEntries": []}
    envelope = {"payload": base64_of(payload), "payloadType": PAYLOAD_TYPE, "signatures": signed}
    bundle = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(bundle, sort_keys=True).encode()


class NotSigned(ValueError):
    """The files are not those that this key signed."""


def check_model(raw: bytes, public_pem: bytes, files: Mapping[str, str]) -> None:
    """A `model.sig` is this key's, and of exactly these files (name -> SHA-256 in hex). Raises NotSigned, KeyUnusable
    for a key of another kind."""
    try:
        key = load_pem_public_key(public_pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyUnusable("the key that verifies model signatures is none of P-256 in PEM")
    try:
        envelope = parse_json(raw)["dsseEnvelope"]
        payload = unbase64(envelope["payload"])
        (signed,) = envelope["signatures"]
        key.verify(unbase64(signed["sig"]), pae(payload), ec.ECDSA(hashes.SHA256()))
        statement = parse_json(payload)
        named = {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}
        said = (envelope["payloadType"], statement["_type"], statement["predicateType"])
    except ODD:
        raise NotSigned(f"{SIGNATURE} is not one by this key") from None
    if said != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE) or named != dict(files):
        raise NotSigned(f"{SIGNATURE} was signed for other files")
