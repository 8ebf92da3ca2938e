"""Rules of adapter versions: they are published, activated, downloaded and acknowledged; none is ever changed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters import recipients_repository, repository
from app.adapters.files import WrittenVersion, verify_version
from app.adapters.schemas import Activate, Activated, AdapterDetail, AdapterPage, AdapterView, ReplicaView
from app.audit.service import record
from app.auth import Principal, Role
from app.errors import BadRequest, Conflict, Forbidden, Gone, NotFound
from app.tables import Adapter, AdapterDownload, AdapterState, Job, Replica, ServedModel
from app.trust.model_signature import SIGNATURE

REASON_MIN_CHARS = 10


class AliasMoved(Conflict):
    """Somebody moved the alias since it was seen."""

    type = "alias-moved"
    title = "The active version changed meanwhile"
    mend = "Read the model again and decide anew."


class NotActivatable(Conflict):
    """A version that may not be served."""

    type = "not-activatable"
    title = "This version can not be activated"
    mend = "Activate a published version; GET .../adapters lists their states."


class Superseded(Conflict):
    """A version that still holds what was erased."""

    type = "superseded"
    title = "This version still holds what a later erasure removed"
    mend = f"Only an officer may use it, and only with a reason of at least {REASON_MIN_CHARS} characters."


class WeightsDestroyed(Gone):
    """A version of which manifest and row are left."""

    type = "weights-destroyed"
    title = "The weights of this version were destroyed"
    mend = "Nobody can bring them back, which is what they were destroyed for. Take the active version."


class ModelBusy(Conflict):
    """A job is at work."""

    type = "job-at-work"
    title = "A job is at work on this model"
    mend = "Wait for its end or cancel it: moving the alias now would make its result unpublishable."


class DigestMismatch(Conflict):
    """A replica serves other bytes than the version's."""

    type = "digest-mismatch"
    title = "The digest is not that of the version"
    mend = "Load the version again from .../download; the replica serves something else."


def model_named(session: Session, name: str, *, lock: bool = False) -> ServedModel:
    """With `lock`, held until the transaction ends. Raises NotFound."""
    model = repository.model_by_name(session, name, lock=lock)
    if model is None:
        raise NotFound("there is no served model of this name", mend="GET /v1/models lists them.")
    return model


def version_of(session: Session, model: ServedModel, version: int) -> Adapter:
    """Raises NotFound."""
    adapter = repository.by_version(session, model.id, version)
    if adapter is None:
        raise NotFound("the model has no such version", mend="GET /v1/models/{name}/adapters lists them.")
    return adapter


def view(session: Session, model: ServedModel, adapters: Sequence[Adapter], who: Principal) -> list[AdapterView]:
    """How versions are shown: which job made one is told to those who see every job."""
    sees_jobs = who.owner is None
    parents = repository.parents(session, [a.parent_id for a in adapters if a.parent_id])
    return [
        AdapterView(
            version=a.version, name=a.name, digest=a.digest, state=a.state, active=a.id == model.active_adapter_id,
            parent=parents.get(a.parent_id) if a.parent_id else None, job_id=a.job_id if sees_jobs else None,
            created_at=a.created_at, published_at=a.published_at, superseded_at=a.superseded_at,
            weights_destroyed_at=a.weights_destroyed_at or a.weights_doomed_at,
        )
        for a in adapters
    ]  # fmt: skip


def page(session: Session, name: str, who: Principal, cursor: str | None, limit: int) -> AdapterPage:
    """Versions, newest first. Raises NotFound, BadRequest."""
    model = model_named(session, name)
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 9):
        raise BadRequest("the cursor is not one that this list gave out", mend="Take `next_cursor` of the page before.")
    rows = repository.page(session, model.id, int(cursor) if cursor else None, limit + 1)
    more = str(rows[limit - 1].version) if len(rows) > limit else None
    return AdapterPage(items=view(session, model, rows[:limit], who), next_cursor=more)


def detail(session: Session, name: str, version: int, who: Principal) -> AdapterDetail:
    """One version with its manifest. Raises NotFound."""
    model = model_named(session, name)
    adapter = version_of(session, model, version)
    return AdapterDetail(**view(session, model, [adapter], who)[0].model_dump(), manifest=adapter.manifest)


def next_version(session: Session, model_id: uuid.UUID) -> int:
    """The number of the next version; numbers of rejected candidates are not used again."""
    return repository.highest_version(session, model_id) + 1


def register_candidate(session: Session, job: Job, written: WrittenVersion) -> Adapter:
    """The row of what a job wrote; the same row when the job registers again."""
    known = repository.by_job(session, job.id)
    if known is not None:
        return known
    adapter = Adapter(
        served_model_id=job.served_model_id, version=written.version, name=written.name, digest=written.digest,
        directory=str(written.directory), manifest=written.manifest, state=AdapterState.CANDIDATE,
        parent_id=job.start_adapter_id, job_id=job.id,
    )  # fmt: skip
    session.add(adapter)
    session.flush()
    record(session, "adapter.candidate", subject_id=str(adapter.id), job_id=str(job.id), digest=adapter.digest)
    return adapter


def publish(session: Session, job: Job, candidate: Adapter, now: datetime) -> None:
    """Move the alias to the candidate if it still points to the version that the job started from; older versions hold
    what was erased and become superseded. Raises AliasMoved. Idempotent."""
    if candidate.state is AdapterState.PUBLISHED:
        return
    model = session.get_one(ServedModel, job.served_model_id)
    verify_version(Path(candidate.directory), candidate.manifest)
    moved = repository.swap_alias(
        session, model.id, seen_revision=model.alias_revision, seen=job.start_adapter_id, to=candidate.id, now=now
    )
    if not moved:
        raise AliasMoved("the active version is no longer the one that the job started from")
    session.refresh(model)
    candidate.state, candidate.published_at = AdapterState.PUBLISHED, now
    for old in repository.supersede_older(session, model.id, candidate.version, now):
        record(session, "adapter.superseded", subject_id=str(old), by=str(candidate.id))
    record(
        session, "adapter.published", subject_id=str(candidate.id), job_id=str(job.id), digest=candidate.digest,
        alias_revision=model.alias_revision,
    )  # fmt: skip
    session.flush()


def activate(session: Session, name: str, version: int, ask: Activate, who: Principal) -> Activated:
    """Forward, and back unless that would undo a completed erasure. The reason's digest is audited. Raises NotFound,
    NotActivatable, Superseded, WeightsDestroyed, ModelBusy, AliasMoved, VersionDamaged."""
    model = model_named(session, name, lock=True)  # no job can be claimed meanwhile
    adapter = version_of(session, model, version)
    if adapter.state in {AdapterState.CANDIDATE, AdapterState.REJECTED}:
        raise NotActivatable(f"the version is {adapter.state}: it did not pass, or has not yet passed, its gate")
    _refuse_destroyed(adapter)
    _refuse_superseded(adapter, who, ask.reason)
    busy = repository.job_at_work(session, model.id)
    if busy is not None:
        raise ModelBusy(f"the job {busy} is at work", job_id=str(busy))
    verify_version(Path(adapter.directory), adapter.manifest)
    seen = model.alias_revision if ask.expected_revision is None else ask.expected_revision
    now = datetime.now(UTC)
    before = model.active_adapter_id
    if not repository.swap_alias(session, model.id, seen_revision=seen, seen=before, to=adapter.id, now=now):
        raise AliasMoved(f"the alias has the revision {model.alias_revision}", alias_revision=model.alias_revision)
    session.refresh(model)
    record(
        session, "adapter.activated", subject_id=str(adapter.id), key_id=str(who.key_id), state=str(adapter.state),
        alias_revision=model.alias_revision, reason_digest=_digest(ask.reason),
    )  # fmt: skip
    return Activated(
        version=adapter.version, name=adapter.name, digest=adapter.digest, alias_revision=model.alias_revision
    )


def _digest(reason: str | None) -> str | None:
    """What the audit trail keeps of a reason: it is a person's text."""
    return None if reason is None else hashlib.sha256(reason.encode()).hexdigest()


def _refuse_superseded(adapter: Adapter, who: Principal, reason: str | None) -> None:
    """A superseded version is for officers with a reason only: using it undoes an erasure."""
    if adapter.state is not AdapterState.SUPERSEDED:
        return
    if not who.is_any_of(Role.OFFICER):
        raise Superseded(f"version {adapter.version} is superseded")
    if len((reason or "").strip()) < REASON_MIN_CHARS:
        raise Superseded(f"version {adapter.version} is superseded, and the reason is too short")


def _refuse_destroyed(adapter: Adapter) -> None:
    """From the promise on, whether the file is gone yet or not."""
    if adapter.weights_doomed_at is not None:
        gone = (adapter.weights_destroyed_at or adapter.weights_doomed_at).isoformat(timespec="seconds")
        raise WeightsDestroyed(f"version {adapter.version} was {adapter.state}; its weights went at {gone}")


def ready_to_download(session: Session, name: str, version: int, who: Principal, reason: str | None) -> Adapter:
    """The version, verified on disk, with a receipt of who pulled it. Raises NotFound, Forbidden, WeightsDestroyed,
    Superseded, VersionDamaged."""
    adapter = version_of(session, model_named(session, name), version)
    unpublished = adapter.state in {AdapterState.CANDIDATE, AdapterState.REJECTED}
    if unpublished and not who.is_any_of(Role.OPERATOR, Role.OFFICER):
        raise Forbidden("candidates and rejected versions are for operators and officers")
    _refuse_destroyed(adapter)
    _refuse_superseded(adapter, who, reason)
    verify_version(Path(adapter.directory), adapter.manifest)
    session.add(AdapterDownload(adapter_id=adapter.id, key_id=who.key_id, digest=adapter.digest))
    record(
        session, "adapter.downloaded", subject_id=str(adapter.id), key_id=str(who.key_id), digest=adapter.digest,
        reason_digest=_digest(reason),
    )  # fmt: skip
    return adapter


def signature_of(session: Session, adapter: Adapter) -> bytes | None:
    """The `model.sig` of a version; None before it is signed."""
    return repository.attested(session, adapter.id, SIGNATURE)


def acknowledge(
    session: Session, name: str, replica_id: str, version: int, digest: str, who: Principal, now: datetime
) -> Replica:
    """A replica says what it serves; that it has had the version stays known when it serves another one. Raises
    NotFound, DigestMismatch."""
    model = model_named(session, name, lock=True)  # two first words of one replica make one row
    adapter = version_of(session, model, version)
    if adapter.digest != digest:
        raise DigestMismatch(f"version {version} has another digest", expected=adapter.digest)
    row = repository.replica(session, model.id, replica_id)
    if row is None:
        row = Replica(served_model_id=model.id, replica_id=replica_id)
        session.add(row)
    row.adapter_id, row.digest, row.acknowledged_at = adapter.id, digest, now
    row.key_id = who.key_id
    session.flush()
    recipients_repository.note_replica(session, adapter.id, row.id)
    record(session, "replica.acknowledged", subject_id=str(row.id), adapter_id=str(adapter.id), digest=digest)
    return row


def replicas(session: Session, name: str) -> list[ReplicaView]:
    """What each replica last said it serves. Raises NotFound."""
    model = model_named(session, name)
    return [
        ReplicaView(
            replica_id=row.replica_id, version=version, digest=row.digest, acknowledged_at=row.acknowledged_at,
            current=row.adapter_id == model.active_adapter_id,
        )
        for row, version in repository.replicas(session, model.id)
    ]  # fmt: skip


def unacknowledged_replicas(session: Session, model_id: uuid.UUID) -> list[dict[str, str | int]]:
    """Replicas whose last word was another version than the active one: there the erased may still be callable."""
    model = session.get_one(ServedModel, model_id)
    return [
        {"replica_id": row.replica_id, "version": version, "acknowledged_at": row.acknowledged_at.isoformat()}
        for row, version in repository.replicas(session, model_id)
        if row.adapter_id != model.active_adapter_id
    ]
