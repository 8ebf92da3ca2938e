"""Rows of most tables, for tests of the schema."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.auth import Role
from app.batches import service as batches
from app.db import Database, transaction
from app.ids import new_id
from app.keys.service import create_key
from app.tables import Batch, BatchExample, Example, ExampleDomain, Request, RequestDomain
from grail.types import Role as ExampleRole
from grail.types import Segment
from tests.fixtures.served import add_model


def fill(url: str, directory: Path) -> None:
    """Rows of most tables, with each circle of references closed."""
    db = Database(url)
    now = datetime.now(UTC)
    with transaction(db) as session:
        model = add_model(session, directory)
        key, _ = create_key(session, "asker", Role.REQUESTER)
        request = Request(
            served_model_id=model.id, domain=RequestDomain.PRIVACY, created_by=key.id, received_at=now,
            due_at=now + timedelta(days=1),
        )  # fmt: skip
        session.add(request)
        session.flush()
        for position, segment in enumerate(Segment):
            session.add(
                Example(
                    served_model_id=model.id, request_id=request.id, domain=ExampleDomain.PRIVACY, segment=segment,
                    position=position, plain_subject="s", plain_prompt="p", plain_completion="c",
                    content_digest=f"{position}" * 64,
                )
            )  # fmt: skip
    assert batches.plan(db, time_of=lambda _: now + timedelta(days=1))
    db.dispose()


def fill_general(url: str) -> None:
    """A standing general item with a probe, drawn into the batch that `fill` made."""
    db = Database(url)
    with transaction(db) as session:
        batch = session.query(Batch).one()
        common = {"served_model_id": batch.served_model_id, "domain": ExampleDomain.GENERAL, "segment": Segment.RETAIN}
        plain = {"plain_subject": "s", "plain_prompt": "p", "plain_completion": "c"}
        texts = {**plain, "position": 0, "content_digest": "a" * 64}
        item = Example(**common, **texts, id=new_id(), standing=True)
        session.add(item)
        session.flush()
        session.add(Example(**common, **texts, parent_id=item.id, role=ExampleRole.PARAPHRASE))
        session.add(BatchExample(batch_id=batch.id, example_id=item.id))
    db.dispose()
