"""The end of weights: what a superseded or rejected version still holds goes once its model's window has passed.

First a promise, then the deed, each in a transaction of its own. From the promise on (`weights_doomed_at`) the version
is neither handed out nor activated; then its file goes, and only then is it said, in the row and in the audit trail,
that it is gone. Whoever is killed in between leaves something that the next sweep goes on with. Manifest, configuration
and row stay: what the version was can be shown for good.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from app.adapters import weights_repository
from app.adapters.files import destroy_weights
from app.audit.service import record
from app.requests.repository import lock_model

log = structlog.get_logger(__name__)


def doom(session: Session, now: datetime, limit: int) -> int:
    """Promise the end of at most `limit` versions' weights, all of one model, whose row is held: no job is claimed and
    no version activated meanwhile. How many."""
    model_id = weights_repository.model_with_some_over(session, now)
    if model_id is None:
        return 0
    lock_model(session, model_id)
    versions = weights_repository.over_of(session, model_id, now, limit)
    for version in versions:
        version.weights_doomed_at = now
    session.flush()
    return len(versions)


def destroy(session: Session, now: datetime, limit: int) -> int:
    """Destroy at most `limit` doomed versions' weights, each audited. How many. One whose file can not be removed is
    tried again after all others."""
    done = 0
    for version in weights_repository.doomed(session, limit):
        try:
            destroy_weights(Path(version.directory))
        except OSError as error:
            log.error("weights_not_destroyed", version=version.name, kind=type(error).__name__)
            version.weights_doomed_at = now
            continue
        version.weights_destroyed_at = now
        record(
            session, "adapter.weights_destroyed", subject_id=str(version.id), at=now, digest=version.digest,
            state=str(version.state), version=version.version, served_model_id=str(version.served_model_id),
        )  # fmt: skip
        done += 1
    session.flush()
    return done
