"""Every statement on certificates and on what they are made of."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, or_, select, text, update
from sqlalchemy.orm import Session

from app.lifecycle import RequestState
from app.tables import Audit, BatchMember, Certificate, Job, Report, Request, RequestKind

DONE = (RequestState.PUBLISHED, RequestState.COUNTERED, RequestState.REINSTATED)
"""States of erasures that were done, whatever came after."""
RECIPIENTS = text("""
WITH old AS (SELECT id FROM adapter WHERE served_model_id = :model AND version < :version),
holders AS (
    SELECT DISTINCT 'keys' AS kind, d.key_id AS id FROM adapter_download d WHERE d.adapter_id IN (SELECT id FROM old)
    UNION ALL
    SELECT 'replicas', r.id FROM replica r
    WHERE r.served_model_id = :model AND (
        r.adapter_id IN (SELECT id FROM old)
        OR EXISTS (SELECT FROM adapter_recipient x JOIN old ON old.id = x.adapter_id WHERE x.replica_id = r.id)
    )
),
seen AS (
    SELECT h.kind, (
        SELECT min(a.version) FROM replica r JOIN adapter a ON a.id = r.adapter_id
        WHERE r.served_model_id = :model AND (r.id = h.id OR r.key_id = h.id)
    ) >= :version AS acknowledged, EXISTS (
        SELECT FROM adapter_recipient x JOIN old ON old.id = x.adapter_id
        WHERE (x.key_id = h.id OR x.replica_id = h.id) AND x.notified_at >= :since
    ) AS notified
    FROM holders h
)
SELECT kind, count(*) AS count, count(*) FILTER (WHERE acknowledged) AS acknowledged,
    count(*) FILTER (WHERE notified AND acknowledged IS NOT TRUE) AS notified
FROM seen GROUP BY kind
""")


def owed(session: Session, tried_before: datetime, limit: int) -> list[uuid.UUID]:
    """Reports of jobs that have ended whose requests' certificates are owed, those that were never tried first."""
    rows = session.execute(
        select(Report.id)
        .join(Job, Job.id == Report.job_id)
        .where(Report.certified_at.is_(None), Job.finished_at.is_not(None))
        .where(or_(Report.certify_tried_at.is_(None), Report.certify_tried_at < tried_before))
        .order_by(Report.certify_tried_at.nulls_first(), Report.id)
        .limit(limit)
    )
    return list(rows.scalars())


def stuck(session: Session, tried_before: datetime) -> int:
    """Of how many such reports a try from before then came to nothing."""
    waiting = (
        select(func.count())
        .select_from(Report)
        .join(Job, Job.id == Report.job_id)
        .where(Report.certified_at.is_(None), Job.finished_at.is_not(None), Report.certify_tried_at < tried_before)
    )
    return session.scalar(waiting) or 0


def begin(session: Session, report_id: uuid.UUID, now: datetime) -> None:
    """Note that it is tried, and hold its row: what fails for good does not stand before all others, and only one
    process issues for it."""
    session.execute(update(Report).where(Report.id == report_id).values(certify_tried_at=now))


def settle(session: Session, report_id: uuid.UUID, now: datetime) -> None:
    """Nothing is owed any more."""
    session.execute(update(Report).where(Report.id == report_id).values(certified_at=now))


def report_and_job(session: Session, report_id: uuid.UUID) -> tuple[Report, Job]:
    """A report with its job."""
    report = session.get_one(Report, report_id)
    return report, session.get_one(Job, report.job_id)


def uncertified(session: Session, job: Job, limit: int) -> Sequence[Request]:
    """Erasures that this job has done and that have no certificate: those of its batch, and those linked to them."""
    members = select(BatchMember.request_id).where(BatchMember.batch_id == job.batch_id)
    statement = (
        select(Request)
        .outerjoin(Certificate, Certificate.request_id == Request.id)
        .where(
            or_(Request.id.in_(members), Request.duplicate_of_id.in_(members)),
            Certificate.id.is_(None),
            Request.kind == RequestKind.ERASE,
            Request.state.in_(DONE),
            Request.outcome["job_id"].astext == str(job.id),
        )
        .order_by(Request.id)
        .limit(limit)
    )
    return session.scalars(statement).all()


def holds(session: Session, request_ids: Sequence[uuid.UUID]) -> Sequence[Row[Any]]:
    """Leaves about holds of these requests and their ends, in their order: (subject_id, event, leaf)."""
    shown: tuple[Any, ...] = (Audit.subject_id, Audit.event, Audit.leaf)
    statement = (
        select(*shown)
        .where(
            Audit.subject_id.in_([str(request_id) for request_id in request_ids]),
            Audit.event.in_(("request.held", "request.resumed")),
        )
        .order_by(Audit.id)
    )
    return session.execute(statement).all()


def recipients(session: Session, model_id: uuid.UUID, version: int, since: datetime) -> dict[str, Row[Any]]:
    """By kind (`keys`, `replicas`): how many had a version of a served model before this one, how many of them serve
    this one or a newer one, and how many of the others were told after `since`."""
    rows = session.execute(RECIPIENTS, {"model": model_id, "version": version, "since": since})
    return {row.kind: row for row in rows}


def certified_among(session: Session, request_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the requests that have a certificate."""
    return set(session.scalars(select(Certificate.request_id).where(Certificate.request_id.in_(request_ids))))


def add(session: Session, made: Sequence[Certificate]) -> None:
    """Insert certificates."""
    session.add_all(made)
    session.flush()


def of_request(session: Session, request_id: uuid.UUID) -> Certificate | None:
    """The certificate of a request."""
    return session.scalars(select(Certificate).where(Certificate.request_id == request_id)).one_or_none()

