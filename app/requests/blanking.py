"""The end of a request's texts, once `content_until` (`app.requests.keeping`) has passed.

Their key is destroyed first, in the key store, then they leave their rows: whatever dies in between, no copy of the
database opens any more, and the next sweep does the rest. Digests stay, so that what was erased is known again when
somebody brings it: it does not come to stand, and `items` sent anew are compared. From then on it can not be measured
again beside later erasures.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.envelope.columns import codec_of
from app.envelope.service import leaf_of
from app.requests import blanking_repository


def blank(session: Session, now: datetime, limit: int) -> int:
    """Destroy contents whose `content_until` has passed, of at most `limit` requests, each audited. Of how many."""
    requests = blanking_repository.over(session, now, limit)
    for request in requests:
        request.content_removed_at = now
        rows, keys = blanking_repository.blank(session, request, now)
        if request.key_id is not None:
            keys.add(request.key_id)
        request.key_id = None  # what is written about it from now on gets another
        destroyed = codec_of(session).keyring.destroy(sorted(keys))
        record(
            session, "request.content_removed", subject_id=str(request.id), at=now, state=str(request.state),
            served_model_id=str(request.served_model_id), rows=rows,
        )  # fmt: skip
        for one in destroyed:
            record(session, "key.destroyed", subject_id=str(request.id), at=now, **leaf_of(one))
    session.flush()
    return len(requests)
