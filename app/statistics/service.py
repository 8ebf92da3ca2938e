"""A year's requests in numbers, for those who have to report them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.statistics import repository
from app.statistics.schemas import Figures, Group, Statistics

DIGITS = 2


def of_year(session: Session, year: int, served_model: str | None, now: datetime) -> Statistics:
    """What became of the requests that were received in a year (by UTC); days to two digits."""
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    (total,) = repository.figures(session, start, end, now, served_model, grouped=False)
    groups = repository.figures(session, start, end, now, served_model, grouped=True)
    return Statistics(
        year=year, served_model=served_model, counted_at=now, total=Figures(**_rounded(total._mapping)),
        groups=[Group(**_rounded(row._mapping)) for row in groups],
    )  # fmt: skip


def _rounded(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): round(float(value), DIGITS) if str(name).endswith("_days") and value is not None else value
        for name, value in row.items()
    }
