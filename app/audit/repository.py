"""Every statement on the audit table."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables.audit import Audit


def of_subject(session: Session, subject_id: str) -> Sequence[Audit]:
    """What happened to one thing, oldest first."""
    return session.scalars(select(Audit).where(Audit.subject_id == subject_id).order_by(Audit.id)).all()
