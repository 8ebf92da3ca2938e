"""The few statements by which a request is received. They are written out: each is one round trip instead of many.

Whoever receives a request that only forgets holds its served model together with others that do (an advisory lock,
shared), and what is asked by this key alone: so that of two calls for the same the second sees the first, while calls
for different things do not wait for each other, nor for each other's commit. Whatever decides about the standing set,
batches or the alias holds the model alone (`repository.lock_model`). A request with retain items does so, too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.requests.repository import MODELS
from app.tables import KeyRole
from app.tables.key import OPEN_NOW_SQL

FINGERPRINTS = 7_311_004
"""Advisory locks on what a key asks for."""

HOLDER_AND_MODEL = f"""
SELECT k.role, {OPEN_NOW_SQL}, m.id, m.base_model_path, m.prompt_template, m.context_tokens, m.policy,
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

STORE = """
WITH stored AS (
    INSERT INTO request (
        id, served_model_id, domain, state, subject_reference, legal_basis, client_reference, note, tries, settings,
        created_by, received_at, due_at, completed_at, kind, regulation, fingerprint, duplicate_of_id, traceparent
    )
    SELECT
        id, served_model_id, domain, state, subject_reference, legal_basis, client_reference, note, 0, '{}',
        created_by, received_at, due_at, completed_at, kind, regulation, fingerprint, duplicate_of_id, traceparent
    FROM json_to_recordset(%(requests)s::json) AS given (
        id uuid, served_model_id uuid, domain request_domain, state request_state, subject_reference text,
        legal_basis text, client_reference text, note text, created_by uuid, received_at timestamptz,
        due_at timestamptz, completed_at timestamptz, kind request_kind, regulation regulation, fingerprint text,
        duplicate_of_id uuid, traceparent text
    )
    RETURNING id, xmin::text AS revision
), examples AS (
    INSERT INTO example (
        id, served_model_id, request_id, parent_id, domain, segment, role, position, subject, prompt, completion, facts,
        content_digest, standing, erased_by_request_id, removed_at
    )
    SELECT
        id, served_model_id, request_id, parent_id, domain, segment, role, position, subject, prompt, completion, facts,
        content_digest, standing, erased_by_request_id, removed_at
    FROM json_to_recordset(%(examples)s::json) AS given (
        id uuid, served_model_id uuid, request_id uuid, parent_id uuid, domain example_domain, segment segment,
        role example_role, position integer, subject text, prompt text, completion text, facts jsonb,
        content_digest text, standing boolean, erased_by_request_id uuid, removed_at timestamptz
    )
), leaves AS (
    INSERT INTO audit (event, subject_id, leaf)
    SELECT event, subject_id, convert_to(leaf, 'UTF8')
    FROM json_to_recordset(%(leaves)s::json) AS given (event text, subject_id text, leaf text)
), events AS (
    INSERT INTO event (kind, request_id, served_model_id, data, created_at)
    SELECT kind, request_id, served_model_id, data, created_at
    FROM json_to_recordset(%(events)s::json) AS given (
        kind text, request_id uuid, served_model_id uuid, data jsonb, created_at timestamptz
    )
)
SELECT id, revision FROM stored
"""


TARGET_AND_TERMS = """
SELECT m.id, m.base_model_path, m.prompt_template, m.context_tokens, m.policy,
    md5(jsonb_build_array(m.base_model_path, m.prompt_template, m.context_tokens, m.policy)::text)
FROM served_model m WHERE m.name = %(model)s
"""

RECEIVE = """
SELECT receive_request_1(
    %(key)s::uuid, %(model)s::uuid, %(terms)s, %(fingerprint)s, %(digests)s::text[],
    %(requests)s::json, %(examples)s::json, %(leaves)s::json, %(events)s::json
)
"""
"""What `HOLDER_AND_MODEL`, `ASKED_BEFORE` and `STORE` do one after the other, in a function (migration 0016)."""

REQUEST_COLUMNS = (
    "id", "served_model_id", "domain", "state", "subject_reference", "legal_basis", "client_reference", "note",
    "created_by", "received_at", "due_at", "completed_at", "kind", "regulation", "fingerprint", "duplicate_of_id",
    "traceparent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A served model, as far as a request is checked against it."""

    id: uuid.UUID
    base_model_path: str
    prompt_template: str
    context_tokens: int
    policy: dict[str, Any]


def holder_and_model(
    session: Session, key_id: uuid.UUID, name: str, fingerprint: str | None, *, shared: bool
) -> tuple[KeyRole | None, Target | None]:
    """The role of a key that opens (else None), and the served model of that name. From then on until the end
    of the transaction what is asked is this key's alone, and with `shared` the model is held together with others."""
    values = {"key": key_id, "model": name, "fingerprint": fingerprint, "shared": shared}
    row = session.connection().exec_driver_sql(HOLDER_AND_MODEL, values).one_or_none()
    if row is None:
        return None, None
    return KeyRole(row[0]) if row[1] else None, None if row[2] is None else Target(*row[2:7])


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
    return None if row is None else (Target(*row[:5]), row[5])


def receive(
    connection: Connection,
    key_id: uuid.UUID,
    model_id: uuid.UUID,
    terms: str,
    fingerprint: str,
    digests: Sequence[str],
    request: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    leaves: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> str | None:
    """Insert a request with all that belongs to it, in a transaction of its own, and its revision; None, with nothing
    inserted, where the key does not open, the model is another, the same is asked already or some of it stands."""
    values = {
        "key": key_id, "model": model_id, "terms": terms, "fingerprint": fingerprint, "digests": list(digests),
        **_as_json(request, examples, leaves, events),
    }  # fmt: skip
    revision: str | None = connection.exec_driver_sql(RECEIVE, values).scalar_one()
    return revision


def store(
    session: Session,
    request: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    leaves: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> str:
    """Insert a request with all that belongs to it, in one statement. Its revision."""
    values = _as_json(request, examples, leaves, events)
    revision: str = session.connection().exec_driver_sql(STORE, values).one().revision
    return revision


def _as_json(request: Mapping[str, Any], *others: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    rows = zip(("requests", "examples", "leaves", "events"), ([request], *others), strict=True)
    return {name: json.dumps(some, default=_plain) for name, some in rows}


def _plain(value: Any) -> str:
    """What JSON does not know: ids and moments."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
