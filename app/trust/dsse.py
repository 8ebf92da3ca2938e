"""DSSE envelopes of in-toto statements. Read by `app.trust.verify`; its one form keeps every byte of them in sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.trust.canonical import canonical
from app.trust.keys import Signer
from app.trust.verify import PAYLOAD_TYPE, Signatures, base64_of, open_envelope, pae, wrapped

__all__ = ["envelope", "open_envelope", "pae", "sign_statement"]


def envelope(payload: bytes, signed: Signatures) -> bytes:
    """A DSSE envelope of an in-toto statement, in its one form."""
    signatures = [{"keyid": who, "sig": base64_of(raw)} for who, raw in signed]
    return wrapped({"payload": base64_of(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures})


def sign_statement(statement: Any, signers: Sequence[Signer]) -> bytes:
    """The envelope over the statement's canonical bytes; `keyid` is `name+id`. Raises ValueError for no signer or a
    value
    that is no JSON."""
    if not signers:
        raise ValueError("an envelope without a signature shows nothing")
    payload = canonical(statement)
    return envelope(payload, [(f"{one.name}+{one.key_id}", one.sign(pae(payload))) for one in signers])
