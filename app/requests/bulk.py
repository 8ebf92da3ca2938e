"""Many requests of one key in one transaction, a few statements for hundreds of them.

They are stored first, without a lock that others wait for, and settled then: linked where they ask what is asked
already, and what is forgotten taken out of the standing retain set. Settling holds the served model's row until the
commit, so that it comes last. Nobody sees anything in between.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from app.requests import conflicts, duplicates, duplicates_repository, repository
from app.requests.service import Asked, store


def add(session: Session, asked: Sequence[Asked], now: datetime) -> None:
    """Store requests; `settle` has to follow in the same transaction."""
    store(session, asked, {}, now)
    session.flush()


def settle(session: Session, served_model_id: uuid.UUID, request_ids: Sequence[uuid.UUID], now: datetime) -> None:
    """Settle requests of one served model that `add` has stored, a few hundred at a time. Of several served models the
    one with the smallest id comes first."""
    repository.lock_model(session, served_model_id)
    requests = duplicates_repository.by_ids(session, request_ids)
    linked = duplicates.link_many(session, requests, now)
    if linked:
        duplicates_repository.lay_to_rest(session, [request.id for request in linked])
    conflicts.settle(session, served_model_id, request_ids, now)
