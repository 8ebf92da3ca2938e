"""The service's master secrets, and keys that are derived from them.

Nothing is signed or fingerprinted with a master secret itself: each purpose has a key of its own (`derive`). The first
secret signs, all of them verify (`derive_each`), so that a secret is changed without a moment in which signatures fail:
put the new one in front, take the old one out once nothing that was signed with it is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from pathlib import Path

from app import private_files
from app.config import load_settings
from app.errors import ServiceError

LEAST_BYTES = 32
FILE = "master-secret"
"""Name, below the data directory, of the secret that an embedded service makes for itself."""
BETWEEN = re.compile(r"[,\r\n]+")

Part = str | int | bytes | uuid.UUID


class NoMasterSecret(ServiceError):
    """The service can not start, or not sign, without one."""

    status, type, title = 500, "no-master-secret", "The service has no master secret, or one that is too short"
    mend = (
        "Make one with `openssl rand -base64 48`, and set GRAIL_MASTER_SECRET to it, or GRAIL_MASTER_SECRET_FILE to a "
        "file that holds it; the same for API and workers."
    )


def masters() -> list[bytes]:
    """The master secrets, the one that signs first. Raises NoMasterSecret."""
    found = [part.strip().encode() for part in BETWEEN.split(load_settings().master_secret) if part.strip()]
    if not found:
        raise NoMasterSecret("GRAIL_MASTER_SECRET is not set")
    short = [number for number, secret in enumerate(found, 1) if len(secret) < LEAST_BYTES]
    if short:
        raise NoMasterSecret(f"secret {short[0]} of GRAIL_MASTER_SECRET has fewer than {LEAST_BYTES} bytes")
    return found


def derive(purpose: str, *parts: Part) -> bytes:
    """The 32 bytes that belong to a purpose and its parts (ids, numbers), of the secret that signs. Raises
    NoMasterSecret."""
    return _derived(masters()[0], purpose, parts)


def derive_each(purpose: str, *parts: Part) -> list[bytes]:
    """The same of every secret: what verifies. Raises NoMasterSecret."""
    return [_derived(master, purpose, parts) for master in masters()]


def ensure_file(directory: Path) -> Path:
    """The file in `directory` with a secret of this service's own, made when it is not there. Raises OSError."""
    return private_files.ensure(directory / FILE, _new)


def _new() -> bytes:
    return f"{secrets.token_urlsafe(48)}\n".encode()


def _derived(master: bytes, purpose: str, parts: tuple[Part, ...]) -> bytes:
    """HMAC-SHA256 over purpose and parts, each with its length in front: no two lists run together."""
    mac = hmac.new(master, digestmod=hashlib.sha256)
    for part in (purpose, *parts):
        data = part if isinstance(part, bytes) else str(part).encode()
        mac.update(len(data).to_bytes(8, "big") + data)
    return mac.digest()
