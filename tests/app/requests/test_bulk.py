"""Requests that are stored in bulk end as those that are sent one after the other: the fast way and the obvious one."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session, object_session

from app.auth import Principal, Role
from app.db import transaction
from app.envelope.columns import codec_of
from app.keys.service import create_key
from app.requests import bulk, service
from app.requests.known import known_model
from app.requests.schemas import RequestCreate
from app.tables import Example, Request
from grail.types import Role as ExampleRole
from grail.types import Segment
from tests.app.service import NOW, Floor
from tests.fixtures.served import question

CONTENTS = range(5)
ASKED = st.tuples(st.sets(st.sampled_from(CONTENTS), max_size=2), st.sets(st.sampled_from(CONTENTS), max_size=2))
REQUESTS = st.lists(ASKED.filter(lambda sides: bool(sides[0] | sides[1]) and not sides[0] & sides[1]), max_size=6)
Store = Callable[[Session, Principal, Sequence[RequestCreate]], None]
MODELS = itertools.count()


def one_by_one(session: Session, who: Principal, payloads: Sequence[RequestCreate]) -> None:
    for payload in payloads:
        service.submit(session, payload, who, NOW, due_days=30)


def in_bulk(session: Session, who: Principal, payloads: Sequence[RequestCreate]) -> None:
    asked = [
        service.prepare(
            payload, known_model(session, payload.served_model), who, NOW, codec_of(session), due_days=30
        )
        for payload in payloads
    ]
    if asked:
        bulk.add(session, asked, who.key_id, NOW)


def outcome(floor: Floor, before: Any, brought: Any, store: Store) -> Any:
    """What stands, what is linked and what is kept out, after requests of one key and then of another."""
    name = f"model-{next(MODELS)}"
    floor.register(name)
    with transaction(floor.db) as session:
        keys = [create_key(session, f"key {number}", Role.REQUESTER)[0] for number in range(2)]
        first, second = (Principal(key.id, key.name, key.role) for key in keys)

        def payloads(sides: Any) -> list[RequestCreate]:
            return [
                RequestCreate.model_validate(
                    {
                        "served_model": name, "domain": "privacy", "forget": [question(one) for one in forget],
                        "retain": [question(one) for one in retain],
                    }
                )
                for forget, retain in sides
            ]  # fmt: skip

        one_by_one(session, first, payloads(before))
        one_by_one(session, second, payloads(before[:1]))
        store(session, second, payloads(brought))
    with floor.db.session_factory() as session:
        model_id = known_model(session, name).id
        return _seen(session, model_id)


def fingerprint_of(request: Request) -> str:
    """What is asked, in the same words for every model: fingerprints are under each model's own key."""
    session = object_session(request)
    assert session is not None
    rows = session.scalars(select(Example).where(Example.request_id == request.id)).all()
    return str((request.fingerprint is not None, sorted((one.segment, one.content.prompt) for one in rows)))


def _seen(session: Session, model_id: uuid.UUID) -> Any:
    requests = session.scalars(select(Request).where(Request.served_model_id == model_id)).all()
    prints = {one.id: fingerprint_of(one) for one in requests}
    states = sorted(
        (prints[one.id], str(one.state), str(prints.get(one.duplicate_of_id) if one.duplicate_of_id else None))
        for one in requests
    )
    retained = session.scalars(
        select(Example).where(
            Example.served_model_id == model_id, Example.segment == Segment.RETAIN, Example.role == ExampleRole.ITEM
        )
    ).all()
    rows = sorted(
        (one.content.prompt, one.standing, one.removed_at is not None, one.erased_by_request_id is not None)
        for one in retained
    )
    return states, rows


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@example(before=[({0}, {1})], brought=[({0}, {1}), ({2}, {3}), ({2}, {3}), ({3}, set())])
@example(before=[], brought=[({0}, {1}), ({0}, {1})])
@given(before=REQUESTS, brought=REQUESTS)
def test_in_bulk_ends_as_one_by_one(shared: Floor, before: Any, brought: Any) -> None:
    assert outcome(shared, before, brought, in_bulk) == outcome(shared, before, brought, one_by_one)
