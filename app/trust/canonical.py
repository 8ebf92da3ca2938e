"""Canonical JSON (RFC 8785) and SHA-256 over it: the bytes that are logged, hashed and signed."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises ValueError (rfc8785.CanonicalizationError) for what JSON can not hold:
    NaN, infinities, integers beyond 2^53, other types."""
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()
