"""`model.sig` verified from its specification: DSSE over in-toto, ECDSA on P-256, digests of files."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key


def verified(signature: bytes, public_pem: bytes) -> dict[str, Any]:
    """The statement of a `model.sig`. Raises InvalidSignature."""
    envelope = json.loads(signature)["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (one,) = envelope["signatures"]
    key = load_pem_public_key(public_pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(one["sig"]), signed, ec.ECDSA(hashes.SHA256()))
    statement: dict[str, Any] = json.loads(payload)
    return statement


def differs(statement: dict[str, Any], directory: Path) -> list[str]:
    """Files of a directory that are not those which were signed; the signature itself and what it ignores aside."""
    said = {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}
    ignored = set(statement["predicate"]["serialization"]["ignore_paths"])
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir() if path.name not in ignored
    }  # fmt: skip
    whole = hashlib.sha256(b"".join(bytes.fromhex(said[name]) for name in sorted(said))).hexdigest()
    assert statement["subject"][0]["digest"]["sha256"] == whole
    return sorted(name for name in said.keys() | there.keys() if said.get(name) != there.get(name))
