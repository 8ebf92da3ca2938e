"""Rows from before content was sealed: the sweep seals them, some at a time, until there are none."""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from app.envelope.codec import Codec
from app.envelope.columns import codec_of
from app.requests import sealing_old_repository as repository
from app.requests.sealed import subject_indexes
from app.tables import Example, Request
from app.tables.request import WORDS
from grail.types import Segment


def seal_old(session: Session, limit: int) -> int:
    """Seal at most `limit` requests' words and as many examples that stand there plain. How many rows. Raises
    KeyStoreAway, NoKeyEncryptionKey."""
    requests = repository.plain_requests(session, limit)
    for request in requests:
        for name in WORDS:
            if getattr(request, f"plain_{name}") is not None:
                setattr(request, name, getattr(request, f"plain_{name}"))
    session.flush()
    rows = repository.plain_examples(session, limit)
    if not rows:  # as nearly always: the key store is not needed then
        return len(requests)
    codec = codec_of(session)
    keys = _Keys(codec, repository.requests_of(session, rows))
    for row in rows:
        content = row.plain_content
        if content is None:
            row.plain_content = None
            continue
        row.key_id = keys.of(row)
        row.subject_index = subject_indexes(codec, row.served_model_id, [content.subject])[content.subject]
        row.content = content
    session.flush()
    return len(requests) + len(rows)


class _Keys:
    """Which key rows are sealed under: of a request's two, or one of the operator's set."""

    def __init__(self, codec: Codec, requests: dict[uuid.UUID, Request]) -> None:
        self.codec, self.requests = codec, requests
        self.retained: dict[uuid.UUID | None, uuid.UUID] = {}

    def of(self, row: Example) -> uuid.UUID:
        """The key's id."""
        if row.segment is Segment.RETAIN or row.request_id is None:
            if row.request_id not in self.retained:
                self.retained[row.request_id] = self.codec.keyring.fresh().id
            return self.retained[row.request_id]
        request = self.requests[row.request_id]
        if request.key_id is None:
            request.key_id = self.codec.keyring.fresh().id
        return request.key_id
