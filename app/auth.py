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

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.types import Scope

from app.db import Database, DbSession, reading
from app.errors import Forbidden, Unauthorised
from app.keys import repository
from app.tables.key import KeyRole as Role
from app.telemetry.context import about

__all__ = [
    "ADMITTED", "SEES_ALL", "Claimed", "KnownKeys", "Principal", "Role", "authenticate", "bearer_of", "claimed",
    "confirm", "has_form", "hash_key", "new_key", "prefix_of", "require",
]  # fmt: skip

HOW = "An API key, made with `grail keys create`."
bearer = HTTPBearer(auto_error=False, description=HOW)
NO_KEY = "0" * 64
NO_VALID_KEY = "the Authorization header holds no valid API key"
KNOWN_SECONDS, KNOWN_MOST = 60.0, 4096
SEES_ALL = frozenset({Role.OPERATOR, Role.OFFICER, Role.ADMIN})
"""Roles that see everybody's requests and what follows from them: jobs, reports, imports, events."""
FORM = re.compile(r"grail_([0-9a-f]{8})_[A-Za-z0-9_-]+")
ADMITTED = "grail.admitted"
"""Where a call's scope has the holder whom `app.rates.admission` let in."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `key_id` is the holder's first key, which owns what they own; `used_id` the key that was shown."""

    key_id: uuid.UUID
    name: str
    role: Role
    used_id: uuid.UUID | None = field(default=None, compare=False)

    @property
    def shown(self) -> uuid.UUID:
        """The id of the key that was shown."""
        return self.used_id or self.key_id

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


def has_form(plaintext: str) -> bool:
    """Whether it could be a key."""
    return FORM.fullmatch(plaintext) is not None


def prefix_of(plaintext: str) -> str:
    """The part of a key that may be shown."""
    form = FORM.fullmatch(plaintext)
    return form[1] if form else ""


def bearer_of(scope: Scope) -> str:
    """What a call's Authorization header gives as its bearer token, as FastAPI reads it."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
    scheme, _, credentials = given.partition(" ")
    return credentials.strip(" ") if scheme.lower() == "bearer" else ""


def authenticate(session: Session, plaintext: str | None) -> Principal:
    """The holder of a key. Raises Unauthorised, with the same words whatever was wrong."""
    form = FORM.fullmatch(plaintext or "")
    row = repository.by_prefix(session, form[1]) if form else None
    expected = row.hash if row is not None else NO_KEY
    matches = hmac.compare_digest(expected, hash_key(plaintext or ""))  # compared even when there is no such key
    if row is None or not matches or not row.opens(datetime.now(UTC)):
        raise Unauthorised(NO_VALID_KEY)
    return Principal(row.owner_id, row.name, row.role, row.id)


class KnownKeys:
    """Keys that were found right a short while ago, by the SHA-256 of the whole key: whom to ask the database about.

    What is kept never changes: that a key with this secret was made, and its id. Whether it is revoked, and its role,
    is read in the transaction of each call (`confirm`, or the one statement of a hot path that does all at once): a key
    works no longer than its row says so. Bounded, and each entry is looked up anew after a minute.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[Principal, float]] = {}

    def get(self, digest: str, now: float) -> Principal | None:
        """The holder that was found under that digest."""
        who, until = self._found.get(digest, (None, 0.0))
        return who if now < until else None

    def seen(self, digest: str) -> bool:
        """Whether a key with that digest was found before, however long ago."""
        return self._found.get(digest) is not None

    async def look_up(self, db: Database, plaintext: str, digest: str, now: float) -> Principal:
        """Ask the database, and remember the holder. Raises Unauthorised, Unavailable."""
        who = await run_in_threadpool(_look_up, db, plaintext)
        if len(self._found) >= KNOWN_MOST:
            self._found.clear()
        self._found[digest] = (who, now + KNOWN_SECONDS)
        return who


def _look_up(db: Database, plaintext: str) -> Principal:
    with reading(db) as connection, Session(connection) as session:
        return authenticate(session, plaintext)


class HeldKey(HTTPBearer):
    """Whose key was sent, as far as it was right within the last minute: `app.rates.admission` looked at it, and
    counted the call, before the body was read. Whoever needs more than a name has to let the database confirm it.

    What the path names is noted for the log here, too: each dependency by itself takes a tenth of a short call.
    """

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]  # what it gives is its own
        """Raises Unauthorised."""
        about(request.path_params)
        who: Principal | None = request.scope.get(ADMITTED)
        if who is None:
            raise Unauthorised(NO_VALID_KEY)
        return who


claimed = HeldKey(scheme_name=bearer.scheme_name, description=HOW)
Claimed = Annotated[Principal, Depends(claimed)]


def confirm(session: Session, who: Principal) -> Principal:
    """The holder as the table has it now. Raises Unauthorised when the key was revoked."""
    found = repository.holder(session, who.shown)
    if found is None:
        raise Unauthorised(NO_VALID_KEY)
    return Principal(who.key_id, *found, who.used_id)


def principal(session: DbSession, who: Claimed) -> Principal:
    """Who asks, on any authenticated route."""
    return confirm(session, who)


def require(*roles: Role) -> Callable[[Principal], Principal]:
    """A dependency that lets these roles (and admins) in; all roles when none is named."""

    def check(who: Annotated[Principal, Depends(principal)]) -> Principal:
        if roles and not who.is_any_of(*roles):
            needed = ", ".join([*roles, Role.ADMIN])
            raise Forbidden(f"this needs one of the roles {needed}; the key has the role {who.role}")
        return who

    return check
