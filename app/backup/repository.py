"""Every statement of backups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.tables import Adapter, Bundle, Certificate, Import, Report


def versions(session: Session) -> Sequence[Adapter]:
    """Every adapter version, candidates and rejected ones too."""
    return session.scalars(select(Adapter).order_by(Adapter.name)).all()


def blobs(session: Session) -> set[str]:
    """Digests of all stored documents."""
    reports = session.scalars(select(Report.digest))
    faults = session.scalars(select(Import.errors_digest).where(Import.errors_digest.is_not(None)))
    bundles = session.scalars(select(Bundle.contents_digest).where(Bundle.contents_digest.is_not(None)))
    certificates = session.scalars(select(Certificate.digest))
    return {digest for digest in (*reports, *faults, *bundles, *certificates) if digest is not None}


def move_versions(session: Session, root: Path) -> None:
    """Versions lie below `root` from now on."""
    for name in session.scalars(select(Adapter.name)).all():
        session.execute(update(Adapter).where(Adapter.name == name).values(directory=str(root / name)))
