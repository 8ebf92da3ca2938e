"""Rules of certificates: who may read one, and how it stands when it is read."""

from __future__ import annotations

import json
import uuid
from typing import Any

from sqlalchemy.orm import Session

from app.audit_log.places import place_of
from app.auth import Principal
from app.certificates import document, repository
from app.certificates.errors import CertificateDamaged, CertificateMissing
from app.certificates.issuing import waiting
from app.certificates.schemas import AS_READ, Shown
from app.errors import NotFound
from app.jobs import repository as jobs
from app.requests import repository as requests
from app.requests.service import NOT_THERE
from app.storage import BlobDamaged, BlobStore
from app.tables import Certificate, Request
from app.trust.canonical import canonical, digest

__all__ = ["as_json", "entity_tag", "read", "waiting"]


def read(session: Session, request_id: uuid.UUID, who: Principal, blobs: BlobStore) -> Shown:
    """The certificate of a request as it stands now. Raises NotFound (also for somebody else's request),
    CertificateMissing, CertificateDamaged."""
    request = requests.find(session, request_id, owner=who.owner)
    if request is None:
        raise NotFound(NOT_THERE)
    row = repository.of_request(session, request.id)
    if row is None:
        raise CertificateMissing(str(request.state), str(request.kind))
    try:
        found: dict[str, Any] = json.loads(blobs.get(row.digest))
    except (BlobDamaged, NotFound):
        raise CertificateDamaged(digest=row.digest) from None
    return Shown(found, row.digest, _as_read(session, request, row, found))


def as_json(shown: Shown) -> bytes:
    """Canonical JSON of the document, and of how it stands now under the key `as_read`."""
    return canonical({**shown.document, AS_READ: shown.as_read})


def entity_tag(shown: Shown, representation: str) -> str:
    """The ETag of a representation: the certificate's digest and a mark of what differs."""
    return f'"{shown.digest}.{digest([representation, shown.as_read])[:12]}"'


def _as_read(session: Session, request: Request, row: Certificate, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": str(request.state),
        "content_until": document.moment(request.content_until),
        "content_removed_at": document.moment(request.content_removed_at),
        "audit": {
            "report": place_of(session, row.report_audit_id), "certificate": place_of(session, row.audit_id),
        },
        "recipients": _recipients(session, row, found),
    }  # fmt: skip


def _recipients(session: Session, row: Certificate, found: dict[str, Any]) -> dict[str, Any] | None:
    job = jobs.find(session, row.job_id)
    adapter = found["model"]["adapter"]
    if adapter is None or job is None or job.finished_at is None:
        return None
    rows = repository.recipients(session, job.served_model_id, adapter["version"], job.finished_at)
    return document.recipients(rows)
