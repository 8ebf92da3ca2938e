"""Every statement on the audit table."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.tables.audit import Audit

APPEND = text("""
INSERT INTO audit (event, subject_id, leaf)
SELECT CAST(:event AS text), made.subject_id, made.leaf
FROM unnest(CAST(:subject_ids AS text[]), CAST(:leaves AS bytea[])) WITH ORDINALITY AS made (subject_id, leaf, turn)
ORDER BY made.turn
""")


def of_subject(session: Session, subject_id: str) -> Sequence[Audit]:
    """What happened to one thing, oldest first."""
    return session.scalars(select(Audit).where(Audit.subject_id == subject_id).order_by(Audit.id)).all()


def append(session: Session, event: str, subject_ids: Sequence[str], leaves: Sequence[bytes]) -> None:
    """A leaf of the same event about each subject, in their order and after all that was added before."""
    session.flush()
    session.execute(APPEND, {"event": event, "subject_ids": list(subject_ids), "leaves": list(leaves)})
