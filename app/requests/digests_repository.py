"""Every statement by which digests from before are keyed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.requests.repository import lock_model
from app.tables import Example, Request, ServedModel

KEY_CONTENTS = text(
    "UPDATE example SET content_digest = given.keyed "
    "FROM unnest(CAST(:plain AS text[]), CAST(:keyed AS text[])) AS given (plain, keyed) "
    "WHERE example.served_model_id = :model AND example.content_digest = given.plain"
)
KEY_FINGERPRINTS = text(
    "UPDATE request SET fingerprint = given.keyed "
    "FROM unnest(CAST(:plain AS text[]), CAST(:keyed AS text[])) AS given (plain, keyed) "
    "WHERE request.served_model_id = :model AND request.fingerprint = given.plain"
)


def plain_model(session: Session) -> ServedModel | None:
    """A served model whose digests are plain, held alone; None where there is none."""
    statement = select(ServedModel.id).where(ServedModel.content_keyed_at.is_(None)).order_by(ServedModel.id).limit(1)
    model_id = session.scalars(statement).one_or_none()
    model = None if model_id is None else lock_model(session, model_id)
    return None if model is None or model.is_keyed else model


def plain_digests(session: Session, model_id: uuid.UUID, mark: str, limit: int) -> list[str]:
    """Some digests of a model's rows that are not keyed, each once, in the order of an index."""
    statement = (
        select(Example.content_digest)
        .where(Example.served_model_id == model_id, Example.content_digest < mark)
        .distinct()
        .order_by(Example.content_digest)
        .limit(limit)
    )
    return list(session.scalars(statement))


def key_contents(session: Session, model_id: uuid.UUID, keyed: Mapping[str, str]) -> int:
    """Give rows their keyed digests. How many rows."""
    return _key(session, KEY_CONTENTS, model_id, keyed)


def plain_fingerprints(session: Session, model_id: uuid.UUID, mark: str, limit: int) -> list[str]:
    """The same of requests."""
    statement = (
        select(Request.fingerprint)
        .where(Request.served_model_id == model_id, Request.fingerprint < mark)
        .distinct()
        .limit(limit)
    )
    return [one for one in session.scalars(statement) if one is not None]


def key_fingerprints(session: Session, model_id: uuid.UUID, keyed: Mapping[str, str]) -> int:
    """The same of requests."""
    return _key(session, KEY_FINGERPRINTS, model_id, keyed)


def _key(session: Session, statement: object, model_id: uuid.UUID, keyed: Mapping[str, str]) -> int:
    values = {"model": model_id, "plain": list(keyed), "keyed": list(keyed.values())}
    found = session.execute(statement, values)  # type: ignore[call-overload]
    return int(found.rowcount)
