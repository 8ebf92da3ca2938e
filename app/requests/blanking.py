"""The end of a request's texts, once `content_until` (`app.requests.keeping`) has passed.

Digests stay, so that what was erased is known again when somebody brings it: it does not come to stand, and `items`
sent anew are compared. From then on it can not be measured again beside later erasures.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.requests import blanking_repository


def blank(session: Session, now: datetime, limit: int) -> int:
    """Destroy contents whose `content_until` has passed, of at most `limit` requests, each audited. Of how many."""
    requests = blanking_repository.over(session, now, limit)
    for request in requests:
        rows = blanking_repository.blank(session, request, now)
        request.content_removed_at = now
        record(
            session, "request.content_removed", subject_id=str(request.id), at=now, state=str(request.state),
            served_model_id=str(request.served_model_id), rows=rows,
        )  # fmt: skip
    session.flush()
    return len(requests)
