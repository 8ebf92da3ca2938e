"""Every statement of the facade."""

from __future__ import annotations

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables import Request


def named(session: Session, key_id: uuid.UUID, subject_request_id: str) -> Request | None:
    """The first request of a key under that id of the controller's."""
    statement = select(Request).where(Request.client_reference == subject_request_id, Request.created_by == key_id)
    return session.scalars(statement.order_by(Request.id).limit(1)).first()
