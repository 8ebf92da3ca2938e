"""Every statement on bundles and attestations, and on what they are made of."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, any_, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from app.audit_log.repository import Reading
from app.tables import Adapter, Attestation, Audit, BatchMember, Bundle, Checkpoint, Job, LogLeaf, Report

LEFT_OUT = ("adapter.downloaded", "adapter.attested", "adapter.signed", "report.sealed")
"""Who pulled a version is nothing of the report's; the others come with or after the seal."""


def owed(session: Session, tried_before: datetime, limit: int) -> list[uuid.UUID]:
    """Reports of concluded jobs that are not sealed, those that were never tried first."""
    rows = session.execute(
        select(Report.id)
        .join(Job, Job.id == Report.job_id)
        .outerjoin(Bundle, Bundle.report_id == Report.id)
        .where(Report.bundled_at.is_(None), Job.finished_at.is_not(None), Bundle.sealed_at.is_(None))
        .where((Bundle.tried_at.is_(None)) | (Bundle.tried_at < tried_before))
        .order_by(Bundle.tried_at.nulls_first(), Report.id)
        .limit(limit)
    )
    return list(rows.scalars())


def sealed(session: Session, tried_before: datetime, limit: int) -> list[uuid.UUID]:
    """Reports whose seal is in the trail and that have no bundle yet; where something stood in the way, if that was
    before then."""
    rows = session.execute(
        select(Report.id)
        .join(Bundle, Bundle.report_id == Report.id)
        .where(Report.bundled_at.is_(None), Bundle.sealed_at.is_not(None))
        .where((Bundle.obstacle.is_(None)) | (Bundle.tried_at < tried_before))
        .order_by(Bundle.tried_at.nulls_first(), Report.id)
        .limit(limit)
    )
    return list(rows.scalars())


def begin(session: Session, report_id: uuid.UUID, now: datetime) -> None:
    """Note that it is tried, before anything else: what fails for good then does not stand before all others."""
    statement = insert(Bundle).values(report_id=report_id, tried_at=now)
    session.execute(statement.on_conflict_do_update(index_elements=["report_id"], set_={"tried_at": now}))


def note_obstacle(session: Session, report_id: uuid.UUID, kind: str) -> None:
    """What the last try ended with."""
    session.execute(update(Bundle).where(Bundle.report_id == report_id).values(obstacle=kind))


def note_obstacle_of_all(session: Session, kind: str) -> int:
    """The same of every report that has no bundle yet; of how many it was not known."""
    waiting = (
        select(Report.id)
        .join(Job, Job.id == Report.job_id)
        .outerjoin(Bundle, Bundle.report_id == Report.id)
        .where(Report.bundled_at.is_(None), Job.finished_at.is_not(None), Bundle.obstacle.is_distinct_from(kind))
    )
    made = insert(Bundle).from_select(["report_id"], waiting)
    noted = made.on_conflict_do_update(index_elements=["report_id"], set_={"obstacle": kind})
    return len(session.execute(noted.returning(Bundle.report_id)).all())


def obstacles(session: Session) -> dict[str | None, int]:
    """How many reports of concluded jobs have no bundle yet, by what stands in the way (None: nothing known)."""
    rows = session.execute(
        select(Bundle.obstacle, func.count())
        .select_from(Report)
        .join(Job, Job.id == Report.job_id)
        .outerjoin(Bundle, Bundle.report_id == Report.id)
        .where(Report.bundled_at.is_(None), Job.finished_at.is_not(None))
        .group_by(Bundle.obstacle)
    )
    return {row[0]: row[1] for row in rows}


def find(session: Session, report_id: uuid.UUID, *, lock: bool = False) -> Bundle | None:
    """A report's bundle; with `lock`, held until the transaction ends."""
    query = select(Bundle).where(Bundle.report_id == report_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def report_and_job(session: Session, report_id: uuid.UUID) -> tuple[Report, Job]:
    """A report with its job."""
    report = session.get_one(Report, report_id)
    return report, session.get_one(Job, report.job_id)


def adapter(session: Session, adapter_id: uuid.UUID | None) -> Adapter | None:
    """A version by id."""
    return None if adapter_id is None else session.get(Adapter, adapter_id)


def members(session: Session, job: Job) -> list[uuid.UUID]:
    """Ids of all requests of a job."""
    return list(session.scalars(select(BatchMember.request_id).where(BatchMember.batch_id == job.batch_id)))


def events(session: Session, subject_ids: Sequence[uuid.UUID]) -> Sequence[Any]:
    """(id, leaf) of what the trail has about these, in its order."""
    ids = [str(subject_id) for subject_id in subject_ids]
    return session.execute(
        select(Audit.id, Audit.leaf)
        .where(Audit.subject_id.in_(ids), Audit.event.not_in(LEFT_OUT))
        .order_by(Audit.id)
    ).all()


def positions(reading: Reading, audit_ids: Sequence[int]) -> dict[int, int]:
    """Numbers in the log of those leaves that have one."""
    ids = literal(list(audit_ids), ARRAY(BigInteger))
    rows = reading.execute(select(LogLeaf.audit_id, LogLeaf.position).where(LogLeaf.audit_id == any_(ids)))
    return {row.audit_id: row.position for row in rows}


def earlier_sizes(session: Session, size: int, most: int) -> set[int]:
    """Sizes of the log, smaller than `size`, that auditors may have kept: of its first checkpoint, of the newest ones,
    and of those in the newest bundles."""
    first = select(Checkpoint.size).where(Checkpoint.size < size).order_by(Checkpoint.id).limit(1)
    newest = select(Checkpoint.size).where(Checkpoint.size < size).order_by(Checkpoint.id.desc()).limit(most)
    bundled = (
        select(Bundle.log_size).where(Bundle.log_size < size).order_by(Bundle.assembled_at.desc()).limit(most)
    )
    return {int(found) for query in (first, newest, bundled) for found in session.scalars(query) if found is not None}


def attest(session: Session, adapter_id: uuid.UUID, bodies: Mapping[str, bytes]) -> bool:
    """Keep statements about a version; False when there were any of these names, which then stay."""
    rows = [{"adapter_id": adapter_id, "name": name, "body": body} for name, body in bodies.items()]
    made = session.execute(insert(Attestation).values(rows).on_conflict_do_nothing().returning(Attestation.name))
    return len(made.all()) == len(rows)


def attestations(session: Session, adapter_id: uuid.UUID) -> Sequence[Attestation]:
    """Everything that was signed about a version, by name."""
    query = select(Attestation).where(Attestation.adapter_id == adapter_id).order_by(Attestation.name)
    return session.scalars(query).all()


def without(session: Session, name: str, limit: int) -> Sequence[Adapter]:
    """Published versions that have no attestation of that name, oldest first."""
    has = select(Attestation.name).where(Attestation.adapter_id == Adapter.id, Attestation.name == name).exists()
    query = select(Adapter).where(Adapter.published_at.is_not(None), ~has).order_by(Adapter.published_at).limit(limit)
    return session.scalars(query).all()
