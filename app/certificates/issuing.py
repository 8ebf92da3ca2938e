"""Certificates come into being once an erasure is done, in steps of which each can be done again after any death.

A report owes certificates until `report.certified_at` is set. For some requests at a time a document is made and kept
as a blob; then one transaction, which holds the report's row, notes it and puts the leaf `certificate.issued` with its
digest into the audit trail. Whoever dies before that commit leaves a blob that no row names, which is swept; after it
the request has its certificate, for ever the same. No key is needed for it: the log's checkpoint signs the leaf.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.apart import Apart, together
from app.audit.service import add, entry
from app.audit_log.places import leaf_about
from app.certificates import document, repository
from app.certificates.document import Asked, Basis
from app.certificates.errors import CertificateRefused
from app.certificates.schemas import SCHEMA
from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import ServiceError, Unavailable
from app.ids import new_id
from app.jobs.approvals import decisions
from app.reports.service import ISSUED, load
from app.storage import BlobStore, FileStore
from app.tables import Certificate, Job, Report, Request
from app.trust.canonical import canonical

log = structlog.get_logger(__name__)

RETRY_SECONDS = 60.0
"""What could not be issued is tried again after so long."""
AT_ONCE = 20
"""Reports of one ring."""
REQUESTS_AT_ONCE = 100
"""Certificates of one transaction."""
RING_SECONDS = 20.0
"""No further report is begun in a ring after so long."""


@dataclass(frozen=True, slots=True)
class Made:
    """A certificate that is kept under its digest and that no row names yet."""

    id: uuid.UUID
    request_id: uuid.UUID
    digest: str


def drive(
    db: Database, settings: Settings, *, apart: Apart = together, retry_seconds: float = RETRY_SECONDS
) -> None:
    """Issue every certificate that is owed. Safe to call again at any time, by several at once, and after a death at
    any place; with `apart` around each report, none holds up the others. Raises Unavailable."""
    with transaction(db) as session:
        owed = repository.owed(session, clock(session) - timedelta(seconds=retry_seconds), AT_ONCE)
    until, blobs = time.monotonic() + RING_SECONDS, FileStore(settings.artifacts_dir)
    for report_id in takewhile(lambda _: time.monotonic() < until, owed):
        with apart(report_id=str(report_id)):
            _try(db, blobs, report_id)


def waiting(session: Session) -> str | None:
    """Which certificates could not be issued, in words for an operator; None when nothing stands in the way."""
    stuck = repository.stuck(session, clock(session) - timedelta(seconds=RETRY_SECONDS))
    if not stuck:
        return None
    return f"certificates of {stuck} jobs could not be issued: the control worker's log says why (not_certified)"


def _try(db: Database, blobs: BlobStore, report_id: uuid.UUID) -> None:
    with transaction(db) as session:
        repository.begin(session, report_id, clock(session))
    try:
        while issue_some(db, blobs, report_id):
            pass
    except Unavailable:
        raise
    except ServiceError as error:
        log.error("not_certified", report_id=str(report_id), kind=error.type, detail=error.detail)


def issue_some(db: Database, blobs: BlobStore, report_id: uuid.UUID) -> bool:
    """Issue some of the certificates that a report owes; False once it owes none.

    Raises ReportDamaged, CertificateRefused, StorageFull, Unavailable.
    """
    with transaction(db) as session:
        report, job = repository.report_and_job(session, report_id)
        requests, now = repository.uncertified(session, job, REQUESTS_AT_ONCE), clock(session)
        if not requests:
            repository.settle(session, report_id, now)
            return False
        asked, basis = _asked(session, requests), _basis(session, report, job, requests[0], blobs)
    made = [_made(one, basis, blobs, now) for one in asked]
    with transaction(db) as session:
        _note(session, report_id, made, now)
    return True


def _asked(session: Session, requests: Sequence[Request]) -> list[Asked]:
    leaves: dict[str, list[tuple[str, bytes]]] = {}
    for row in repository.holds(session, [request.id for request in requests]):
        leaves.setdefault(row.subject_id, []).append((row.event, row.leaf))
    return [
        replace(_row(request), pauses=document.pauses(leaves.get(str(request.id), ()))) for request in requests
    ]


def _row(request: Request) -> Asked:
    assert request.completed_at is not None  # noqa: S101 - a constraint
    return Asked(
        id=request.id, figures_of=request.duplicate_of_id or request.id, domain=str(request.domain),
        legal_basis=request.legal_basis, regulation=str(request.regulation), received_at=request.received_at,
        due_at=request.due_at, first_due_at=request.first_due_at, extended_at=request.extended_at,
        done_at=request.completed_at, content_until=request.content_until,
        adapter_version=(request.outcome or {}).get("adapter_version"),
    )  # fmt: skip


def _basis(
    session: Session, report: Report, job: Job, request: Request, blobs: BlobStore
) -> Basis:
    """`request` is any of the job's: all were done by the same version."""
    version = (request.outcome or {}).get("adapter_version")
    assert job.finished_at is not None  # noqa: S101 - owed once a job has ended
    rows: Mapping[str, Any] = {}
    if version is not None:
        rows = repository.recipients(session, job.served_model_id, version, job.finished_at)
    return Basis(
        report=load(report.digest, blobs), report_digest=report.digest, published_at=job.finished_at,
        approvals=decisions(session, job.id),
        recipients=None if version is None else document.recipients(rows),
    )  # fmt: skip


def _made(asked: Asked, basis: Basis, blobs: BlobStore, now: datetime) -> Made:
    certificate_id = new_id()
    try:
        found = document.document(asked, basis, certificate_id, now)
    except (ValueError, KeyError, TypeError):
        raise CertificateRefused(f"the report has no figures of the request {asked.id}") from None
    return Made(certificate_id, asked.id, blobs.put(canonical(found)))


def _note(session: Session, report_id: uuid.UUID, made: Sequence[Made], now: datetime) -> None:
    """Rows and leaves of certificates that nobody else has issued meanwhile."""
    repository.begin(session, report_id, now)
    report, _ = repository.report_and_job(session, report_id)
    known = repository.certified_among(session, [one.request_id for one in made])
    fresh = [one for one in made if one.request_id not in known]
    leaves = [
        add(
            session,
            entry(
                "certificate.issued", str(one.id), now, request_id=str(one.request_id), job_id=str(report.job_id),
                digest=one.digest, report_digest=report.digest,
            ),
        )
        for one in fresh
    ]  # fmt: skip
    session.flush()
    said = leaf_about(session, ISSUED, str(report.id))
    rows = [
        Certificate(
            id=one.id, request_id=one.request_id, job_id=report.job_id, digest=one.digest, schema_version=SCHEMA,
            audit_id=leaf.id, report_audit_id=said, issued_at=now,
        )
        for one, leaf in zip(fresh, leaves, strict=True)
    ]  # fmt: skip
    repository.add(session, rows)
