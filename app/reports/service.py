"""Rules of reports: issued once per job as canonical bytes under their digest, checked whenever they are read.

What can change after the issue (replicas that have not acknowledged, what officers decided, the leaf's place in the
audit log) is added at reading, outside the digest.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.service import unacknowledged_replicas
from app.audit.service import record
from app.audit_log.places import leaf_about, place_of
from app.auth import Principal
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.jobs import repository as jobs
from app.jobs.approvals import decisions
from app.lifecycle import JobState
from app.reports import repository
from app.reports.schemas import SCHEMA, SCHEMA_FILES, Document, Issued
from app.storage import BlobDamaged, BlobStore
from app.tables import Job, Report
from app.trust.canonical import canonical, digest

LATE = ("replicas_not_acknowledged", "approvals", "audit_position")
"""Keys that are filled in at reading."""
ISSUED = "report.issued"
EXCERPT = (
    "This is an excerpt for one requester: other people's requests and examples are left out; figures per domain cover "
    "all of them."
)


class ReportMissing(NotFound):
    """The job has not come that far."""

    type = "no-report-yet"
    title = "The job has no report"
    mend = "Reports are issued once a job is evaluated: GET /v1/jobs/{id} shows how far it is."

    def __init__(self, state: str = JobState.RUNNING, stage: str = "unlearn") -> None:
        super().__init__(f"the job is {state}, at the stage {stage}", state=state, stage=stage)


class ReportDamaged(BlobDamaged):
    """The stored document is gone or is no longer what was issued."""

    type = "report-damaged"
    title = "The stored report was lost, changed or damaged"
    mend = "Restore the artifacts directory from a backup; do not rely on what is there."


def store(document: Document, blobs: BlobStore) -> str:
    """Keep a document as canonical bytes; its digest. Raises ValueError for another schema, StorageFull."""
    if document.get("schema") not in SCHEMA_FILES:
        raise ValueError(f"the document's schema must be {SCHEMA}")
    return blobs.put(canonical({key: value for key, value in document.items() if key not in LATE}))


def register(session: Session, job_id: uuid.UUID, digest: str) -> Report:
    """Note the report of a job that is at work. A job that was started again may issue anew until it is evaluated.

    Raises Conflict when another report stands already.
    """
    report = repository.of_job(session, job_id)
    if report is not None and report.digest == digest:
        return report
    if report is None:
        report = Report(id=new_id(), job_id=job_id, digest=digest, schema_version=SCHEMA)
        repository.add(session, report)
    else:
        job = repository.job(session, job_id)
        if job is None or job.state is not JobState.RUNNING:
            raise Conflict("the job's report is issued and can not be changed")
        report.digest = digest
    record(session, ISSUED, subject_id=str(report.id), job_id=str(job_id), digest=digest)
    return report


def issue(session: Session, job_id: uuid.UUID, document: Document, blobs: BlobStore) -> Report:
    """Keep a document and note it as the job's report. Raises what `store` and `register` raise."""
    return register(session, job_id, store(document, blobs))


def read(session: Session, job_id: uuid.UUID, who: Principal, blobs: BlobStore) -> Issued:
    """The report as it stands now. Raises NotFound (also for other people's jobs), ReportMissing, ReportDamaged."""
    job = jobs.find(session, job_id, owner=who.owner)
    if job is None:
        raise NotFound("there is no job with this id that this key may see", mend="GET /v1/jobs lists them.")
    report = repository.of_job(session, job.id)
    if report is None:
        raise ReportMissing(str(job.state), job.stage)
    document = load(report.digest, blobs)
    if who.owner is not None:
        own = repository.requests_of(session, job, who.owner)
        document = excerpt(document, {str(request_id) for request_id in own})
    return _issued(session, report, job, document)


def as_issued(session: Session, report: Report, job: Job, blobs: BlobStore) -> Issued:
    """The whole report of a job as it stands now, for whoever may see all of it. Raises ReportDamaged."""
    return _issued(session, report, job, load(report.digest, blobs))


def late(issued: Issued) -> dict[str, Any]:
    """What is added at reading."""
    return dict(zip(LATE, (list(issued.replicas), list(issued.approvals), issued.audit_position), strict=True))


def excerpt(document: Document, own: Collection[str]) -> dict[str, Any]:
    """A report without other people's requests, checks and examples: those of the standing set and of earlier erasures
    are other people's too. Unchanged when there are none. Pure."""
    requests = [request for request in document["requests"] if request["id"] in own]
    examples = [example for example in document["examples"] if example.get("request") in own]
    if len(requests) == len(document["requests"]) and len(examples) == len(document["examples"]):
        return dict(document)
    checks = [check for check in document["gate"]["checks"] if is_shown(str(check["scope"]), own)]
    return {
        **document,
        "requests": requests,
        "gate": {**document["gate"], "checks": checks},
        "examples": examples,
        "limits": [*document["limits"], EXCERPT],
    }


def is_shown(scope: str, own: Collection[str]) -> bool:
    """Whether a check of this scope (`privacy`, `request <id>`) may be seen by the owner of `own` requests."""
    return not scope.startswith("request ") or scope.removeprefix("request ") in own


def entity_tag(issued: Issued, shown: str) -> str:
    """The ETag of a representation: the digest alone for the JSON document as it was issued, else with a mark of what
    differs from that."""
    complete = digest(issued.document) == issued.digest
    if shown == "json" and complete and not any(late(issued).values()):
        return f'"{issued.digest}"'
    mark = digest([shown, issued.state, late(issued), digest(issued.document)])
    return f'"{issued.digest}.{mark[:12]}"'


def load(report_digest: str, blobs: BlobStore) -> dict[str, Any]:
    """A document as it was issued. Raises ReportDamaged."""
    try:
        document: dict[str, Any] = json.loads(blobs.get(report_digest))
    except (BlobDamaged, NotFound):
        raise ReportDamaged(digest=report_digest) from None
    return document


def _issued(session: Session, report: Report, job: Job, document: Document) -> Issued:
    """`document` as things stand now."""
    return Issued(
        document, report.digest, str(job.state),
        replicas=tuple(unacknowledged_replicas(session, job.served_model_id)),
        approvals=decisions(session, job.id),
        audit_position=place_of(session, leaf_about(session, ISSUED, str(report.id))),
    )  # fmt: skip
