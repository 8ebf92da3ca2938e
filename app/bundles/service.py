"""Rules of bundles: who is owed one, what it waits for, and how it is read."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile

import structlog
from sqlalchemy.orm import Session

from app.adapters.service import model_named, version_of
from app.apart import Apart, together
from app.audit_log import checkpoints
from app.audit_log.errors import LogForked, NoCheckpointYet, NoSigningKey, OtherOrigin, OutsideLog
from app.audit_log.sequencing import number_all
from app.audit_log.signing import load_signers
from app.bundles import attesting, repository, sealing
from app.bundles.errors import BundleDamaged, BundleMissing, BundleRefused, ModelKeyUnusable
from app.bundles.model_keys import load_model_signer
from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import NotFound, ServiceError, Unavailable
from app.jobs import repository as jobs
from app.lifecycle import is_final
from app.reports import repository as reports
from app.reports.service import ReportMissing
from app.storage import BlobStore
from app.tables import Attestation, Bundle, Job
from app.trust.model_signature import SIGNATURE
from app.trust.verify import parse_log

log = structlog.get_logger(__name__)

RETRY_SECONDS = 60.0
"""What could not be signed is tried again after so long."""
SEAL_SECONDS = 10.0
"""No further report is begun in a ring after so long: figures of large ones take their time to be computed again."""
AT_ONCE = 20
"""Reports, and versions, of one ring."""

@dataclass(frozen=True, slots=True)
class Zip:
    """A bundle for a caller; `body` is None where they have it."""

    digest: str
    body: bytes | None


def drive(
    db: Database, settings: Settings, *, apart: Apart = together, retry_seconds: float = RETRY_SECONDS
) -> None:
    """Bring every bundle that is owed as far as it can be brought now. Safe to call again at any time, by several at
    once, and after a death at any place; with `apart` around each, none holds up the others. Raises Unavailable."""
    with transaction(db) as session:
        before = clock(session) - timedelta(seconds=retry_seconds)
        owed = repository.owed(session, before, AT_ONCE)
    if owed and _may_sign(db, settings):
        until = time.monotonic() + SEAL_SECONDS
        for report_id in takewhile(lambda _: time.monotonic() < until, owed):
            with apart(report_id=str(report_id)):
                _try(db, report_id, lambda report_id=report_id: sealing.seal(db, settings, report_id))  # type: ignore[misc]
    with transaction(db) as session:
        waiting = repository.sealed(session, before, AT_ONCE)
    if waiting and _checkpoint(db, settings):
        for report_id in waiting:
            with apart(report_id=str(report_id)):
                _try(db, report_id, lambda report_id=report_id: _assemble(db, settings, report_id))  # type: ignore[misc]


def attest(db: Database, settings: Settings) -> int:
    """Sign published versions that have no `model.sig`; how many. 0 without a key. Raises Unavailable."""
    try:
        signer = load_model_signer(settings)
    except ModelKeyUnusable as error:
        log.error("versions_not_signed", kind=error.type, detail=error.detail, mend=error.how_to_mend)
        return 0
    if signer is None:
        return 0
    with transaction(db) as session:
        found = repository.without(session, SIGNATURE, AT_ONCE)
        for adapter in found:
            attesting.sign(session, adapter, signer, clock(session))
        return len(found)


def read(
    session: Session, job_id: uuid.UUID, since: int | None, blobs: BlobStore, knows: Callable[[str], bool]
) -> Zip:
    """The bundle of a job's report, or one with the same statement that also proves how the log went on from `since`
    leaves. `knows` tells whether the caller has the one of a digest.

    Raises NotFound, ReportMissing, BundleMissing, BundleDamaged, OutsideLog.
    """
    job = jobs.find(session, job_id)
    if job is None:
        raise NotFound("there is no job with this id", mend="GET /v1/jobs lists them.")
    report = reports.of_job(session, job.id)
    if report is None:
        raise ReportMissing(str(job.state), job.stage)
    row = repository.find(session, report.id)
    if row is None or row.assembled_at is None or row.digest is None:
        raise _missing(session, job, row)
    if since is not None and not _has(row, since):
        return _anew(session, row, since, blobs)
    if knows(row.digest):
        return Zip(row.digest, None)
    body = sealing.put_together(row, blobs)
    if hashlib.sha256(body).hexdigest() != row.digest:
        raise BundleDamaged(digest=row.digest)
    return Zip(row.digest, body)


def attestations(session: Session, name: str, version: int) -> Sequence[Attestation]:
    """What was signed about a version. Raises NotFound."""
    return repository.attestations(session, version_of(session, model_named(session, name), version).id)


def waiting(session: Session) -> str | None:
    """Why reports have no bundle yet that should have one, in words for an operator; None when nothing stands in the
    way."""
    found = {kind: count for kind, count in repository.obstacles(session).items() if kind is not None}
    if not found:
        return None
    said = ", ".join(f"{count} ({kind})" for kind, count in sorted(found.items()))
    mend = f": {NoSigningKey.mend}" if NoSigningKey.type in found else ": see docs/operations.md"
    return f"reports wait to be signed or put into bundles: {said}{mend}"


def unsigned_versions(session: Session) -> bool:
    """Whether a published version has no `model.sig`."""
    return bool(repository.without(session, SIGNATURE, 1))


def _may_sign(db: Database, settings: Settings) -> bool:
    try:
        load_signers(settings)
    except NoSigningKey as error:
        _put_off(db, error)
        return False
    return True


def _checkpoint(db: Database, settings: Settings) -> bool:
    """Number what waits and sign the log, so that the seals of this ring are covered."""
    number_all(db)
    try:
        checkpoints.issue(db, settings)
    except NoCheckpointYet:
        return False
    except (NoSigningKey, OtherOrigin, LogForked) as error:
        _put_off(db, error)
        return False
    return True


def _put_off(db: Database, error: ServiceError) -> None:
    """Nothing fails: reports wait, and say for what."""
    with transaction(db) as session:
        count = repository.note_obstacle_of_all(session, error.type)
    if count:
        log.warning("reports_wait", count=count, kind=error.type, detail=error.detail, mend=error.how_to_mend)


def _try(db: Database, report_id: uuid.UUID, step: Callable[[], object]) -> None:
    with transaction(db) as session:
        repository.begin(session, report_id, clock(session))
    try:
        step()
    except Unavailable:
        raise
    except ServiceError as error:
        log.error("report_not_bundled", report_id=str(report_id), kind=error.type, detail=error.detail)
        with transaction(db) as session:
            repository.note_obstacle(session, report_id, error.type)


def _assemble(db: Database, settings: Settings, report_id: uuid.UUID) -> bool:
    with transaction(db) as session:
        return sealing.assemble_sealed(session, settings, report_id)


def _has(row: Bundle, since: int) -> bool:
    """Whether the bundle as it is kept proves how the log went on from that size."""
    return since == row.log_size or any(one.number == since for one in parse_log(row.proofs or b"")[2])


def _anew(session: Session, row: Bundle, since: int, blobs: BlobStore) -> Zip:
    newest = checkpoints.last(session)
    if since > newest.size:
        raise OutsideLog(f"`since` is at most {newest.size}, the size of the newest checkpoint", size=newest.size)
    found = sealing.wrapped(session, row, (since,))
    if found is None:  # the tables were restored to an older state than this row's
        raise BundleDamaged("the log is smaller than when the bundle was made")
    body = sealing.put_together(row, blobs, *found[1:])
    return Zip(hashlib.sha256(body).hexdigest(), body)


WAITS = {
    NoSigningKey.type: ("the control worker has no signing key", NoSigningKey.mend),
    OtherOrigin.type: (OtherOrigin.title, OtherOrigin.mend),
    LogForked.type: (LogForked.title, LogForked.mend),
    BundleRefused.type: (BundleRefused.title, BundleRefused.mend),
}
"""What an operator has to do something about."""


def _missing(session: Session, job: Job, row: Bundle | None) -> BundleMissing:
    """What a bundle waits for."""
    if not is_final(job.state):
        return BundleMissing("conclusion", f"the job is {job.state}; its report is signed once that is concluded")
    if row is not None and row.obstacle is not None:
        detail, mend = WAITS.get(row.obstacle, (f"the last try ended with {row.obstacle}", None))
        return BundleMissing(row.obstacle, detail, mend)
    if row is None or row.sealed_at is None:
        return BundleMissing("seal", "the report is not signed yet")
    numbered = repository.positions(session, row.audit_ids or [])
    if len(numbered) < len(set(row.audit_ids or [])):
        return BundleMissing("number", "the report is sealed; the seal has no number in the audit log yet")
    return BundleMissing("checkpoint", "the report is sealed; no signed checkpoint covers the seal yet")
