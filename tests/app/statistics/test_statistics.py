"""A year in numbers: compared with a slow twin over made-up requests, and read from the year's own ids alone."""

from __future__ import annotations

import random
import statistics as slow
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from app.auth import Role
from app.db import Database, transaction
from app.ids import new_id
from app.keys.service import create_key
from app.lifecycle import COMPLETED, RequestState
from app.statistics import repository, service
from app.tables import HoldKind, Regulation, Request, RequestDomain, RequestKind
from tests.app.service import Floor
from tests.fixtures.served import add_model

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PATH = "/v1/statistics"
DONE = {"published", "standing", "countered", "reinstated"}


def made(model_id: uuid.UUID, key_id: uuid.UUID, received: datetime, state: RequestState, **more: Any) -> Request:
    ended = state in COMPLETED
    fields: dict[str, Any] = {
        "id": new_id(received), "served_model_id": model_id, "created_by": key_id, "domain": RequestDomain.PRIVACY,
        "regulation": Regulation.GDPR, "received_at": received, "due_at": received + timedelta(days=30),
        "completed_at": received + timedelta(days=5) if ended else None, "state": state, "settings": {},
        "refusal_reason": "-" if state is RequestState.REFUSED else None,
    }  # fmt: skip
    return Request(**fields | more)


def owners(db: Database, directory: Path, name: str = "people") -> tuple[uuid.UUID, uuid.UUID]:
    with transaction(db) as session:
        model, (key, _) = add_model(session, directory, name=name), create_key(session, name, Role.REQUESTER)
        session.flush()
        return model.id, key.id


def figures(db: Database, year: int = 2026, model: str | None = None) -> dict[str, Any]:
    with db.session_factory() as session:
        return service.of_year(session, year, model, NOW).model_dump()


def of_rows(rows: list[Request]) -> dict[str, Any]:
    """The slow twin."""
    def many(*states: str) -> int:
        return sum(str(row.state) in states for row in rows)

    days = sorted(
        (row.completed_at - row.received_at) / timedelta(days=1)
        for row in rows if row.completed_at and str(row.state) in DONE
    )  # fmt: skip
    place = 0.9 * (len(days) - 1)
    p90 = None
    if days:
        low, high = days[int(place)], days[min(int(place) + 1, len(days) - 1)]
        p90 = round(low + (high - low) * (place - int(place)), 2)
    return {
        "received": len(rows), "done": many(*DONE), "refused": many("refused"), "withdrawn": many("withdrawn"),
        "failed": many("failed"), "open": sum(row.completed_at is None for row in rows),
        "overdue": sum((row.completed_at or NOW) > row.due_at for row in rows if row.held_since is None),
        "median_days": round(slow.median(days), 2) if days else None, "p90_days": p90,
    }  # fmt: skip


def test_the_figures_of_a_year_are_those_of_its_rows(db: Database, tmp_path: Path) -> None:
    model_id, key_id = owners(db, tmp_path)
    draw, start, rows = random.Random(7), datetime(2026, 1, 1, tzinfo=UTC), []
    for number in range(400):
        received = start + timedelta(days=draw.uniform(0, 330))
        state = draw.choice([s for s in RequestState if s not in {RequestState.LINKED, RequestState.ON_HOLD}])
        more: dict[str, Any] = {
            "domain": draw.choice(list(RequestDomain)), "regulation": draw.choice(list(Regulation)),
            "due_at": received + timedelta(days=draw.choice([20, 40])),
        }  # fmt: skip
        if state in COMPLETED:
            more["completed_at"] = received + timedelta(days=draw.uniform(0, 50))
        if number % 20 == 0:
            state, more["completed_at"] = RequestState.ON_HOLD, None
            more |= {"held_since": received, "hold_kind": HoldKind.SCOPE, "held_from": RequestState.QUEUED}
        rows.append(made(model_id, key_id, received, state, **more))
    with transaction(db) as session:
        session.add_all(rows)
        session.flush()
        session.expunge_all()
    found = figures(db)
    assert found["total"] == of_rows(rows)
    assert found["total"]["overdue"] > 0 < found["total"]["failed"]
    kinds = sorted({(row.domain, row.regulation) for row in rows})
    assert len(found["groups"]) == len(kinds) == 8
    for group in found["groups"]:
        kind = (group.pop("domain"), group.pop("regulation"))
        assert group == of_rows([row for row in rows if (row.domain, row.regulation) == kind]), kind


def test_a_year_begins_and_ends_by_utc_and_counts_what_was_asked_of_its_model(db: Database, tmp_path: Path) -> None:
    (people, key), (others, _) = owners(db, tmp_path / "a"), owners(db, tmp_path / "b", "others")
    first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
    state = RequestState.PUBLISHED
    with transaction(db) as session:
        original = made(people, key, first, state)
        session.add_all([
            original, made(people, key, last, state), made(others, key, last, state),
            made(people, key, first - timedelta(microseconds=1), state),
            made(people, key, last + timedelta(microseconds=1), state),
        ])  # fmt: skip
        session.flush()
        again = made(people, key, first, state, kind=RequestKind.REINSTATE, original_id=original.id)
        session.add(again)
    assert figures(db)["total"]["received"] == 3
    assert figures(db, model="people")["total"]["received"] == 2
    assert figures(db, model="others")["total"]["received"] == figures(db, 2025)["total"]["received"] == 1
    nothing = figures(db, 2024)
    assert nothing["groups"] == []
    assert [nothing["total"][name] for name in ("received", "median_days", "p90_days")] == [0, None, None]


FILL = text("""
    INSERT INTO request (id, served_model_id, domain, state, tries, settings, created_by, received_at, due_at)
    SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7000800000000000' || lpad(
               to_hex(n), 4, '0') AS uuid), :model, 'privacy', 'queued', 0, '{}', :key, at, at + interval '30 days'
    FROM generate_series(1, 6000) AS n, LATERAL (SELECT CAST(:start AS timestamptz) + n * interval '4 hours' AS at) AS t
""")


def test_only_the_years_own_rows_are_read(db: Database, tmp_path: Path) -> None:
    model_id, key_id = owners(db, tmp_path)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with transaction(db) as session:
        session.execute(FILL, {"model": model_id, "key": key_id, "start": start})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE request"))
        end = datetime(2024, 3, 1, tzinfo=UTC)
        for grouped in (False, True):
            statement = repository.counting(start, end, NOW, None, grouped=grouped)
            query = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
            plan = "\n".join(row[0] for row in connection.execute(text(f"EXPLAIN ANALYZE {query}")))
            assert "pk_request" in plan and "Seq Scan" not in plan, plan
    assert figures(db, 2024)["total"]["received"] == 366 * 6 - 1


def test_the_statistics_over_http(shared: Floor) -> None:
    shared.ask(1)
    year = datetime.now(UTC).year
    found = shared.caller.call("officer", "GET", PATH, params={"year": year, "served_model": "people"})
    assert (found["year"], found["served_model"], found["total"]["received"], found["total"]["open"]) == (
        year, "people", 1, 1,
    )  # fmt: skip
    assert [(group["domain"], group["received"]) for group in found["groups"]] == [("privacy", 1)]
    assert shared.caller.refused("operator", "GET", f"{PATH}?year={year}") == (403, "forbidden")


@pytest.mark.parametrize("query", ["", "?year=1969", "?year=3000", "?year=MMXXVI", "?year=2026&served_model=%00"])
def test_a_year_without_sense_is_refused(shared: Floor, query: str) -> None:
    assert shared.caller.refused("officer", "GET", f"{PATH}{query}") == (422, "unprocessable")
