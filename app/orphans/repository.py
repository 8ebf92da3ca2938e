"""Every statement on what rows say of files."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.tables import Adapter, Bundle, Certificate, Import, Job, Report, ServedModel


def versions_among(session: Session, names: Collection[str]) -> set[str]:
    """Those of the names that are an adapter version's."""
    return set(session.scalars(select(Adapter.name).where(Adapter.name.in_(names))))


def model_id_of(session: Session, name: str) -> uuid.UUID | None:
    """The served model of that name."""
    return session.scalar(select(ServedModel.id).where(ServedModel.name == name))


def blobs_among(session: Session, digests: Collection[str]) -> set[str]:
    """Those of the digests that a row names. Whoever stores blobs of another kind adds its column here."""
    found = set(session.scalars(select(Report.digest).where(Report.digest.in_(digests))))
    found |= set(session.scalars(select(Bundle.contents_digest).where(Bundle.contents_digest.in_(digests))))
    found |= set(session.scalars(select(Certificate.digest).where(Certificate.digest.in_(digests))))
    return found | set(session.scalars(select(Import.errors_digest).where(Import.errors_digest.in_(digests))))


def oldest_open(session: Session) -> datetime | None:
    """When the oldest of the jobs and imports began that have not ended; None when all have."""
    jobs = session.scalar(select(func.min(Job.created_at)).where(Job.finished_at.is_(None)))
    imports = session.scalar(select(func.min(Import.created_at)).where(Import.finished_at.is_(None)))
    return min(filter(None, (jobs, imports)), default=None)
