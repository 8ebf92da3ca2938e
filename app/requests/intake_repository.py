"""The few statements by which a request is received. They are written out: each is one round trip instead of many.

Whoever receives a request that only forgets holds its served model together with others that do (an advisory lock,
shared), and what is asked by this key alone: so that of two calls for the same the second sees the first, while calls
for different things do not wait for each other, nor for each other's commit. Whatever decides about the standing set,
batches or the alias holds the model alone (`repository.lock_model`). A request with retain items does so, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from pydantic_core import to_json
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.requests.repository import MODELS
from app.tables import KeyRole
from app.tables.key import OPEN_NOW_SQL

FINGERPRINTS = 7_311_004
"""Advisory locks on what a key asks for."""

HOLDER_AND_MODEL = f"""
SELECT k.role, {OPEN_NOW_SQL}, m.id, m.base_model_path, m.prompt_template, m.context_tokens, m.policy,
    m.content_keyed_at IS NOT NULL,
    pg_advisory_xact_lock_shared({MODELS}, CASE WHEN %(shared)s THEN hashtext(m.id::text) END),
    pg_advisory_xact_lock({FINGERPRINTS}, hashtext(coalesce(k.holder_id, k.id)::text || %(fingerprint)s))
FROM key k LEFT JOIN served_model m ON m.name = %(model)s
WHERE k.id = %(key)s
"""  # noqa: S608 - two numbers of our own
"""A lock function of NULL holds nothing."""

ASKED_BEFORE = """
SELECT
    (
        SELECT id FROM request
        WHERE created_by = %(key)s AND fingerprint = %(fingerprint)s AND served_model_id = %(model)s
            AND completed_at IS NULL AND state <> 'linked' AND kind = 'erase'
        ORDER BY id LIMIT 1
        FOR NO KEY UPDATE
    ),
    EXISTS (
        SELECT FROM example
        WHERE served_model_id = %(model)s AND content_digest = ANY(%(digests)s) AND standing
    )
"""

IS_KEYED = "SELECT content_keyed_at IS NOT NULL FROM served_model WHERE id = %(model)s"

STORE = "SELECT store_request_2(%(requests)s::json, %(examples)s::json, %(leaves)s::json, %(events)s::json)"

TARGET_AND_TERMS = """
SELECT m.id, m.base_model_path, m.prompt_template, m.context_tokens, m.policy,
    m.content_keyed_at IS NOT NULL, request_terms_2(m)
FROM served_model m WHERE m.name = %(model)s
"""

RECEIVE = """
SELECT request, revision FROM receive_requests_1(
    %(model)s::uuid, %(terms)s, %(askers)s::json, %(requests)s::json, %(examples)s::json, %(leaves)s::json,
    %(events)s::json
)
"""
"""What `HOLDER_AND_MODEL`, `ASKED_BEFORE` and `STORE` do one after the other, for many at once. The functions are those
of migrations 0019, 0023 and 0024."""

PLAIN_COLUMNS = (
    "id", "served_model_id", "domain", "state", "subject_reference", "legal_basis", "client_reference", "note",
    "created_by", "received_at", "due_at", "completed_at", "kind", "regulation", "fingerprint", "duplicate_of_id",
    "traceparent",
)  # fmt: skip
"""Of a request, before it is sealed."""
SEALED = {"subject_reference": "subject_reference_sealed", "note": "note_sealed"}
REQUEST_COLUMNS = ("key_id", *(SEALED.get(name, name) for name in PLAIN_COLUMNS))


@dataclass(frozen=True, slots=True)
class Target:
    """A served model, as far as a request is checked against it."""

    id: uuid.UUID
    base_model_path: str
    prompt_template: str
    context_tokens: int
    policy: dict[str, Any]
    is_keyed: bool


def holder_and_model(
    session: Session, key_id: uuid.UUID, name: str, fingerprint: str | None, *, shared: bool
) -> tuple[KeyRole | None, Target | None]:
    """The role of a key that opens (else None), and the served model of that name. From then on until the end
    of the transaction what is asked is this key's alone, and with `shared` the model is held together with others."""
    values = {"key": key_id, "model": name, "fingerprint": fingerprint, "shared": shared}
    row = session.connection().exec_driver_sql(HOLDER_AND_MODEL, values).one_or_none()
    if row is None:
        return None, None
    return KeyRole(row[0]) if row[1] else None, None if row[2] is None else Target(*row[2:8])


def is_keyed(session: Session, model_id: uuid.UUID) -> bool:
    """Whether a model's digests are keyed by now."""
    found = session.connection().exec_driver_sql(IS_KEYED, {"model": model_id}).scalar_one()
    return bool(found)


def asked_before(
    session: Session, key_id: uuid.UUID, model_id: uuid.UUID, fingerprint: str, digests: Sequence[str]
) -> tuple[uuid.UUID | None, bool]:
    """The first open request of this key for the same, held until the transaction ends; and whether anything with one
    of these digests stands."""
    values = {"key": key_id, "model": model_id, "fingerprint": fingerprint, "digests": list(digests)}
    row = session.connection().exec_driver_sql(ASKED_BEFORE, values).one()
    return row[0], row[1]


def target_and_terms(connection: Connection, name: str) -> tuple[Target, str] | None:
    """The served model of that name, and a digest of what requests are checked against."""
    row = connection.exec_driver_sql(TARGET_AND_TERMS, {"model": name}).one_or_none()
    return None if row is None else (Target(*row[:6]), row[6])


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for what: the id of the request, of the key that was shown, what calls for the same hold alone (the
    fingerprint as `HOLDER_AND_MODEL` has it, which is never stored), the fingerprint that is stored, and the digests of
    what shall go."""

    id: uuid.UUID
    shown_key: uuid.UUID
    held: str
    asked: str
    digests: Sequence[str]


def receive(
    connection: psycopg.Connection[Any],
    model_id: uuid.UUID,
    terms: str,
    askers: Sequence[Asker],
    rows: Mapping[str, str],
) -> dict[uuid.UUID, str]:
    """Insert requests of one served model with all that belongs to them (`as_json`), in one transaction of their own,
    and their revisions by id. One is left out, with nothing inserted of it, where its key does not open, the same is
    asked already or some of it stands; all of them where the model is another."""
    values = {"model": model_id, "terms": terms, "askers": to_json(askers).decode(), **rows}
    return dict(connection.execute(RECEIVE, values).fetchall())


def store(session: Session, rows: Mapping[str, str]) -> str:
    """Insert a request with all that belongs to it (`as_json`), in one statement. Its revision."""
    revision: str = session.connection().exec_driver_sql(STORE, rows).scalar_one()
    return revision


def as_json(
    requests: Sequence[Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]],
    leaves: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """Rows by columns, as the database's functions take them."""
    kinds = {"requests": requests, "examples": examples, "leaves": leaves, "events": events}
    return {name: to_json(rows, bytes_mode="hex").decode() for name, rows in kinds.items()}
