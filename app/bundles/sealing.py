"""From a concluded job's report to a signed bundle, in steps of which each can be done again after any death:

1. `seal`: files are made and kept as one blob; then, in one transaction, a statement about them is signed, the version
   is attested, and the leaf `report.sealed` goes into the audit trail. Whoever dies before that commit leaves a blob
   that no row names, which is swept; after it the row says that it is done. So there is one seal a report.
2. `assemble_sealed`: once a signed checkpoint covers the numbers of all leaves, the proofs are kept beside the
   statement.

Files are those of the seal for ever: a page typeset by another version of the service would have other bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.files import MANIFEST, VersionDamaged
from app.audit.service import add, entry
from app.audit_log import checkpoints
from app.audit_log.keys import that_count
from app.audit_log.nodes import Nodes
from app.audit_log.signing import load_signers
from app.bundles import attesting, repository
from app.bundles.errors import BundleDamaged, BundleRefused
from app.bundles.held import held_out_of
from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import NotFound
from app.reports import html, pdf
from app.reports.schemas import Issued
from app.reports.service import as_issued
from app.storage import BlobDamaged, BlobStore, FileStore
from app.tables import Adapter, Bundle
from app.trust.bundle import (
    Placed,
    archive,
    assemble,
    blinded_report,
    contents,
    digests,
    prove,
    scores_of,
    seal_fields,
)
from app.trust.canonical import canonical
from app.trust.commitments import new_salt
from app.trust.dsse import sign_statement
from app.trust.keys import Signer
from app.trust.statement import about_report
from app.trust.verify import MAX_BUNDLE_BYTES, REPORT, SEAL, Rejected, check_report

EARLIER_MOST = 8
"""Of the newest checkpoints, and of those of the newest bundles, that a bundle has proofs from."""
WRAPPERS_BYTES = 32 << 20
"""Room for statement, checkpoint and proofs in the largest bundle that is read."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the files are made of: the report, leaves of events with their ids, and the new and the old version."""

    issued: Issued
    events: Sequence[Any]
    new: Adapter | None
    old: Adapter | None


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be signed: files by name, ids of the events' leaves in their order, the salt of the scores' ids."""

    issued: Issued
    files: dict[str, bytes]
    audit_ids: tuple[int, ...]
    salt: bytes


def seal(db: Database, settings: Settings, report_id: uuid.UUID) -> bool:
    """Sign a concluded job's report and seal it in the audit trail; False when it was before.

    Raises NoSigningKey, ReportDamaged, VersionDamaged, BundleRefused, StorageFull, Unavailable.
    """
    signers, blobs = load_signers(settings), FileStore(settings.artifacts_dir)
    with transaction(db) as session:
        known = repository.find(session, report_id)
        if known is not None and known.sealed_at is not None:
            return False
        found = _find(session, report_id, blobs)
    made = _make(found)
    digest = blobs.put(archive(made.files))
    with transaction(db) as session:
        return _sign(session, report_id, made, digest, that_count(session, signers, clock(session)))


def assemble_sealed(session: Session, settings: Settings, report_id: uuid.UUID) -> bool:
    """Keep the proofs of a sealed report; False while a leaf has no number or no checkpoint covers it.

    Raises BundleDamaged, NoCheckpointYet.
    """
    row = repository.find(session, report_id, lock=True)
    if row is None or row.sealed_at is None or row.assembled_at is not None:
        return False
    found = wrapped(session, row)
    if found is None:
        return False
    row.log_size, row.checkpoint, row.proofs = found
    whole = put_together(row, FileStore(settings.artifacts_dir))
    row.digest, row.assembled_at, row.obstacle = hashlib.sha256(whole).hexdigest(), clock(session), None
    report, _ = repository.report_and_job(session, report_id)
    report.bundled_at = row.assembled_at
    session.flush()
    return True


def wrapped(session: Session, row: Bundle, since: Collection[int] = ()) -> tuple[int, bytes, bytes] | None:
    """Size of the log, checkpoint and proofs, as of the newest checkpoint, with proofs from the sizes `since` besides
    the usual ones; None while that checkpoint does not cover every leaf. Raises NoCheckpointYet."""
    ids, last = row.audit_ids or [], checkpoints.last(session)
    places = repository.positions(session, ids)
    if len(places) < len(set(ids)) or max(places.values()) >= last.size:
        return None
    earlier = repository.earlier_sizes(session, last.size, EARLIER_MOST) | set(since)
    placed = Placed(tuple(places[audit_id] for audit_id in ids), row.seal or b"")
    return last.size, last.note, prove(Nodes(session), last.size, placed, sorted(earlier))


def put_together(row: Bundle, blobs: BlobStore, checkpoint: bytes | None = None, proofs: bytes | None = None) -> bytes:
    """The bytes of report.zip, with other wrappers where they are given. Raises BundleDamaged."""
    try:
        files = unpacked(blobs.get(row.contents_digest or ""))
        return assemble(
            files, statement=row.statement or b"", checkpoint=checkpoint or row.checkpoint or b"",
            log=proofs or row.proofs or b"",
        )  # fmt: skip
    except (BlobDamaged, NotFound, Rejected, ValueError):
        raise BundleDamaged(digest=row.contents_digest) from None


def unpacked(raw: bytes) -> dict[str, bytes]:
    """Files of an archive that `seal` kept, which its digest vouches for."""
    with zipfile.ZipFile(io.BytesIO(raw)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def _find(session: Session, report_id: uuid.UUID, blobs: BlobStore) -> Found:
    report, job = repository.report_and_job(session, report_id)
    new, old = (repository.adapter(session, id_) for id_ in (job.candidate_adapter_id, job.start_adapter_id))
    subjects = [*repository.members(session, job), job.id, report.id, *([new.id] if new else [])]
    return Found(as_issued(session, report, job, blobs), repository.events(session, subjects), new, old)


def _make(found: Found) -> Made:
    """Outside of any transaction: pages take a second, figures a minute where there are hundreds of subjects."""
    issued, salt, document = found.issued, new_salt(), found.issued.document
    try:
        own = {str(one["id"]) for one in document["requests"]}
        scores = scores_of(document, salt, held_out_of(document), own)
        shown = replace(issued, document=blinded_report(document, salt))
    except (ValueError, KeyError, TypeError):
        raise BundleRefused("the report's examples and figures do not go together", kind="report-malformed") from None
    files = contents(
        report=canonical(shown.document), scores=scores, events=[row.leaf for row in found.events],
        new=_manifest(found.new), old=_manifest(found.old), pdf=pdf.render(shown), html=html.render(shown),
    )  # fmt: skip
    _check(files)
    return Made(issued, files, tuple(row.id for row in found.events), salt)


def _manifest(adapter: Adapter | None) -> bytes | None:
    """A version's manifest as it lies in its directory. Raises VersionDamaged."""
    if adapter is None:
        return None
    try:
        raw = (Path(adapter.directory) / MANIFEST).read_bytes()
        if json.loads(raw) == adapter.manifest:
            return raw
    except (OSError, ValueError):
        pass
    raise VersionDamaged(f"{MANIFEST} of {adapter.name} is missing or not as it was written")


def _check(files: dict[str, bytes]) -> None:
    """What an auditor's program will say of the files. Raises BundleRefused."""
    try:
        check_report(files)
    except Rejected as error:
        raise BundleRefused(str(error), kind=error.kind) from None
    if sum(map(len, files.values())) > MAX_BUNDLE_BYTES - WRAPPERS_BYTES:
        raise BundleRefused("its files are larger than a bundle that is read", kind="too-large")


def _sign(session: Session, report_id: uuid.UUID, made: Made, digest: str, signers: Sequence[Signer]) -> bool:
    now, (report, job) = clock(session), repository.report_and_job(session, report_id)
    repository.begin(session, report_id, now)
    row = repository.find(session, report_id, lock=True)
    if row is None or row.sealed_at is not None:
        return False  # another worker was faster
    version = repository.adapter(session, job.candidate_adapter_id)
    if version is not None and version.published_at is not None:
        attesting.attest(session, version, made.issued.document, report.digest, signers, now)
    named = {"report_id": str(report.id), "job_id": str(job.id), "log": signers[0].name}
    statement = about_report(digests(made.files), at=now, **named)
    fields = seal_fields(canonical(statement), made.files[REPORT])
    leaf = add(session, entry(SEAL, str(report.id), now, **fields))
    session.flush()
    row.salt, row.contents_digest, row.seal, row.sealed_at = made.salt, digest, leaf.leaf, now
    row.statement, row.audit_ids = sign_statement(statement, signers), [*made.audit_ids, leaf.id]
    row.obstacle = None
    session.flush()
    return True
