"""API keys and roles. A key is shown once; the table keeps a searchable prefix and a hash.

The secret has 256 bits of randomness, so one SHA-256 is enough: there is nothing to guess that a slow hash would slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app.db import DbSession
from app.errors import Forbidden, Unauthorised
from app.keys import repository
from app.tables.key import KeyRole as Role
from app.telemetry.context import note

__all__ = ["SEES_ALL", "Principal", "Role", "authenticate", "hash_key", "new_key", "require"]

bearer = HTTPBearer(auto_error=False, description="An API key, made with `grail keys create`.")
NO_KEY = "0" * 64
SEES_ALL = frozenset({Role.OPERATOR, Role.OFFICER, Role.ADMIN})
"""Roles that see everybody's requests and what follows from them: jobs, reports, imports, events."""
FORM = re.compile(r"grail_([0-9a-f]{8})_[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `key_id` is the holder's first key, which owns what they own; `used_id` the key that was shown."""

    key_id: uuid.UUID
    name: str
    role: Role
    used_id: uuid.UUID | None = field(default=None, compare=False)

    def is_any_of(self, *roles: Role) -> bool:
        """True when the role is one of these; an admin is everything."""
        return self.role is Role.ADMIN or self.role in roles

    @property
    def owner(self) -> uuid.UUID | None:
        """Whose requests, and what follows from them, this key sees: its own (its id), or (None) everybody's."""
        return None if self.role in SEES_ALL else self.key_id


def new_key() -> tuple[str, str, str]:
    """(prefix, plaintext, hash) of a fresh key `grail_<prefix>_<secret>`."""
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    plaintext = f"grail_{prefix}_{secret}"
    return prefix, plaintext, hash_key(plaintext)


def hash_key(plaintext: str) -> str:
    """SHA-256 of the whole key (its prefix is part of it), in hex."""
    return hashlib.sha256(plaintext.encode()).hexdigest()


def authenticate(session: Session, plaintext: str | None) -> Principal:
    """The holder of a key. Raises Unauthorised, with the same words whatever was wrong."""
    form = FORM.fullmatch(plaintext or "")
    row = repository.by_prefix(session, form[1]) if form else None
    expected = row.hash if row is not None else NO_KEY
    matches = hmac.compare_digest(expected, hash_key(plaintext or ""))  # compared even when there is no such key
    if row is None or not matches or not row.is_valid(datetime.now(UTC)):
        raise Unauthorised("the Authorization header holds no valid API key")
    note(key_id=row.id)
    return Principal(row.owner_id, row.name, row.role, row.id)


def principal(
    session: DbSession, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Principal:
    """Who asks, on any authenticated route."""
    return authenticate(session, credentials.credentials if credentials else None)


def require(*roles: Role) -> Callable[[Principal], Principal]:
    """A dependency that lets these roles (and admins) in; all roles when none is named."""

    def check(who: Annotated[Principal, Depends(principal)]) -> Principal:
        if roles and not who.is_any_of(*roles):
            needed = ", ".join([*roles, Role.ADMIN])
            raise Forbidden(f"this needs one of the roles {needed}; the key has the role {who.role}")
        return who

    return check
