"""Lists of many requests: each filter is served by an index that gives the order too, so that a page costs a page."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from app.auth import Role
from app.db import Database, transaction
from app.keys.service import create_key
from app.requests import repository
from app.requests.schemas import RequestFilter
from app.tables import Regulation, RequestKind
from tests.fixtures.served import add_model

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = 5000
FILL = text(
    """
    INSERT INTO request (id, served_model_id, domain, state, tries, settings, created_by, received_at, due_at,
                         regulation)
    SELECT gen_random_uuid(), :model, 'privacy', 'queued', 0, '{}', :key, CAST(:now AS timestamptz),
           CAST(:now AS timestamptz) + n * interval '1 hour',
           CASE WHEN n % 500 = 0 THEN 'ccpa'::regulation ELSE 'gdpr' END
    FROM generate_series(1, :rows) AS n
    """
)


class Explaining(Session):
    """Notes the plan of what it is asked to read."""

    def scalars(self, statement: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(statement, Select):
            query = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
            self.info["plan"] = "\n".join(row[0] for row in self.execute(text(f"EXPLAIN {query}")))
        return super().scalars(statement, *rest, **more)


@pytest.fixture
def many(db: Database, tmp_path: Path) -> Iterator[Explaining]:
    with transaction(db) as session:
        model, (key, _) = add_model(session, tmp_path), create_key(session, "many", Role.REQUESTER)
        session.flush()
        session.execute(FILL, {"model": model.id, "key": key.id, "now": NOW, "rows": ROWS})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE request"))
    with Explaining(db.engine) as session:
        yield session


def test_a_page_by_due_date_is_read_in_order_from_the_index(many: Explaining) -> None:
    horizon = RequestFilter(due_before=NOW + timedelta(days=300))
    first = repository.page_by_due_date(many, horizon, after=None, limit=3)
    place = first[-1].due_at, first[-1].id
    following = repository.page_by_due_date(many, horizon, after=place, limit=3)
    assert "ix_request_open_due_at_id" in many.info["plan"]
    assert "Sort" not in many.info["plan"] and "Seq Scan" not in many.info["plan"]
    assert [row.due_at - NOW for row in first + following] == [timedelta(hours=n) for n in range(1, 7)]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (RequestFilter(regulation=Regulation.CCPA), "ix_request_regulation_id"),
        (RequestFilter(kind=RequestKind.REINSTATE), "ix_request_original_id"),
    ],
    ids=["regulation", "kind"],
)
def test_rare_kinds_and_regulations_are_found_by_index(many: Explaining, wanted: RequestFilter, index: str) -> None:
    rows = repository.page(many, wanted, before=uuid.UUID(int=2**128 - 1), limit=50)
    assert index in many.info["plan"]
    assert "Seq Scan" not in many.info["plan"]
    assert len(rows) == (ROWS // 500 if wanted.regulation else 0)
