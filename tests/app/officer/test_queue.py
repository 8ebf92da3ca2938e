"""The officer's queue: everything that waits for a decision is in it, and nothing else, page after page by index."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from app.auth import Role
from app.db import Database, transaction
from app.keys.service import create_key
from app.lifecycle import RequestState
from app.officer import repository, service
from app.tables import Request
from tests.app.service import NOW, Floor
from tests.fixtures.served import add_model

QUEUE = "/v1/officer/queue"
REASON = "The work is quoted lawfully."


def queue(floor: Floor, **params: Any) -> list[tuple[str, str]]:
    items = floor.caller.call("officer", "GET", QUEUE, params={"limit": 200, **params})["items"]
    return [(item["kind"], item["id"]) for item in items]


def set_due(floor: Floor, request_id: str, days: float) -> None:
    due = NOW + timedelta(days=days)
    with transaction(floor.db) as session:
        received = due - timedelta(days=30)
        statement = update(Request).where(Request.id == uuid.UUID(request_id))
        session.execute(statement.values(due_at=due, received_at=received))


@pytest.fixture
def full(floor: Floor) -> tuple[Floor, dict[str, str]]:
    """One of each kind, and the ids."""
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"require_approval": True}})
    countered = floor.ask(1, domain="copyright")
    first = floor.work()
    floor.caller.call("officer", "POST", f"/v1/jobs/{first}/approve")
    floor.caller.call("operator", "POST", f"/v1/requests/{countered}/counter", json={"reason": REASON})
    attention = floor.ask(2)
    cancelled = floor.order()
    floor.caller.call("operator", "POST", f"/v1/jobs/{cancelled}/cancel")
    asked = floor.ask(3)
    approval = floor.work()
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"validate_notices": True}})
    notice = floor.ask(4, domain="copyright")
    overdue, soon, held, late = floor.ask(5), floor.ask(6), floor.ask(7), floor.ask(8)
    set_due(floor, overdue, -1)
    set_due(floor, soon, 3)
    set_due(floor, held, -2)
    set_due(floor, late, 8)
    floor.caller.call("operator", "POST", f"/v1/requests/{held}/hold", json={"kind": "scope", "reason": REASON})
    return floor, {
        "overdue": overdue, "approval": str(approval), "notice": notice, "counter_notice": countered,
        "attention": attention, "due_soon": soon, "asked": asked,
    }  # fmt: skip


def test_everything_that_waits_for_an_officer_is_in_the_queue_and_nothing_else(
    full: tuple[Floor, dict[str, str]],
) -> None:
    floor, ids = full
    kinds = ["overdue", "approval", "notice", "counter_notice", "attention", "due_soon"]
    assert queue(floor) == [(kind, ids[kind]) for kind in kinds]
    for kind in kinds:
        assert queue(floor, kind=kind) == [(kind, ids[kind])]
    items = {item["kind"]: item for item in floor.caller.call("officer", "GET", QUEUE)["items"]}
    for item in items.values():
        assert floor.caller.call("officer", "GET", item["link"])["state"] == item["state"]
        assert item["served_model"] == "people"
    assert items["approval"]["approvals_missing"] == 1 and items["notice"]["approvals_missing"] is None
    assert 30.9 < items["overdue"]["age_days"] < 31.1
    assert items["counter_notice"]["age_days"] < 1 and items["counter_notice"]["due_at"] is None
    assert queue(floor, served_model="nobody") == []
    assert len(queue(floor, served_model="people")) == 6


def test_a_superseded_version_waits_until_everybody_who_has_it_was_told_or_serves_a_newer_one(floor: Floor) -> None:
    def waiting() -> list[str]:
        items = floor.caller.call("officer", "GET", QUEUE, params={"kind": "recipients"})["items"]
        return [f"{item['state']} {item['link']}" for item in items]

    def serve(version: int) -> None:
        digest = floor.caller.call("operator", "GET", f"/v1/models/people/adapters/{version}")["digest"]
        body = {"version": version, "digest": digest}
        floor.caller.call("operator", "POST", "/v1/models/people/replicas/edge/ack", json=body)

    recipients = "/v1/models/people/adapters/1/recipients"
    assert floor.caller.send("requester", "GET", "/v1/models/people/adapters/1/download").status_code == 200
    serve(1)
    assert waiting() == [], "nobody has to be told of what is served"
    floor.ask(1)
    floor.work()
    assert waiting() == [f"superseded {recipients}"]
    serve(2)
    assert waiting() == [f"superseded {recipients}"], "the key that downloaded it has no replica"
    (key,) = [one for one in floor.caller.call("officer", "GET", recipients)["items"] if one["kind"] == "key"]
    floor.caller.call("officer", "POST", f"{recipients}/{key['id']}/notified", json={"channel": "mail"})
    assert waiting() == []
    serve(1)
    assert waiting() == [f"superseded {recipients}"], "and again when it is served again"
    assert queue(floor, kind="recipients", served_model="people") == queue(floor, kind="recipients")


def test_an_overdue_notice_stands_under_both_kinds(full: tuple[Floor, dict[str, str]]) -> None:
    floor, ids = full
    set_due(floor, ids["notice"], -5)
    found = queue(floor)
    assert found[:2] == [("overdue", ids["notice"]), ("overdue", ids["overdue"])], "the first due comes first"
    assert ("notice", ids["notice"]) in found


def test_what_is_decided_leaves_the_queue(full: tuple[Floor, dict[str, str]]) -> None:
    floor, ids = full
    call = floor.caller.call
    call("officer", "POST", f"/v1/jobs/{ids['approval']}/approve")
    call("officer", "POST", f"/v1/requests/{ids['notice']}/validate")
    call("officer", "POST", f"/v1/requests/{ids['counter_notice']}/reinstate", 202, json={})
    call("officer", "POST", f"/v1/requests/{ids['attention']}/refuse", json={"reason": REASON})
    call("officer", "POST", f"/v1/requests/{ids['overdue']}/refuse", json={"reason": REASON})
    assert queue(floor) == [("due_soon", ids["due_soon"])]


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
def test_pages_follow_each_other_across_kinds(full: tuple[Floor, dict[str, str]], limit: int) -> None:
    floor, _ = full
    seen: list[tuple[str, str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = floor.caller.call("officer", "GET", QUEUE, params={"limit": limit, **cursor})
        seen += [(item["kind"], item["id"]) for item in page["items"]]
        assert len(page["items"]) <= limit
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == queue(floor)


@pytest.mark.parametrize("cursor", ["x", "overdue", "notice.x", "due_soon.AQ", "other.AQ", ".", "notice.é"])
def test_a_foreign_cursor_of_the_queue_is_refused(shared: Floor, cursor: str) -> None:
    answer = shared.caller.send("officer", "GET", QUEUE, params={"cursor": cursor})
    if cursor == "overdue":  # a kind alone begins it
        assert answer.status_code == 200
    else:
        assert answer.status_code == 400
    behind = {"cursor": "notice", "kind": "overdue"}
    assert shared.caller.refused("officer", "GET", QUEUE, params=behind) == (400, "bad-cursor")


FILL = text(
    """
    INSERT INTO request (id, served_model_id, domain, state, tries, settings, created_by, received_at, due_at,
                         completed_at)
    SELECT gen_random_uuid(), :model, 'privacy',
           CASE WHEN n % 500 = 0 THEN 'notice' ELSE 'published' END::request_state,
           0, '{}', :key, CAST(:now AS timestamptz) - interval '40 days', CAST(:now AS timestamptz) - interval '1 day',
           CASE WHEN n % 500 <> 0 THEN CAST(:now AS timestamptz) END
    FROM generate_series(1, 5000) AS n
    """
)


class Explaining(Session):
    """Notes the plan of what it is asked to read."""

    def execute(self, statement: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(statement, Select):
            query = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
            self.info["plan"] = "\n".join(row[0] for row in super().execute(text(f"EXPLAIN {query}")))
        return super().execute(statement, *rest, **more)


def test_a_page_of_the_queue_reads_indexes_alone(db: Database, tmp_path: Path) -> None:
    with transaction(db) as session:
        model, (key, _) = add_model(session, tmp_path), create_key(session, "many", Role.REQUESTER)
        session.flush()
        session.execute(FILL, {"model": model.id, "key": key.id, "now": NOW})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE request"))
    with Explaining(db.engine) as session:
        found = repository.in_state(session, RequestState.NOTICE, None, None, 4)
        assert len(found) == 4
        assert "ix_request_state_id" in session.info["plan"] and "Seq Scan on request" not in session.info["plan"]
        last = found[0].due_at, uuid.UUID(int=0)
        assert len(repository.due(session, None, None, NOW, last, 20)) == 10
        assert "ix_request_open_due_at_id" in session.info["plan"]
        assert "Seq Scan on request" not in session.info["plan"]
        page = service.queue(session, NOW, kind=None, served_model=None, cursor=None, limit=12)
    assert [item.kind for item in page.items] == ["overdue"] * 10 + ["notice"] * 2
