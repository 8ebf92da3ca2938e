"""What a year's statistics look like from outside."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from app.tables import Regulation, RequestDomain


class Figures(BaseModel):
    """Of the requests that were received in the year, as they stand now."""

    received: int
    done: int = Field(description="published (countered or reinstated later, too), or standing")
    refused: int
    withdrawn: int
    failed: int
    open: int
    overdue: int = Field(description="done or ended after their due date, or past it now while their clock runs")
    median_days: float | None = Field(description="calendar days from receipt to done, holds included; null: none is")
    p90_days: float | None = Field(description="nine of ten were done within so many days")


class Group(Figures):
    """Of one domain and regulation."""

    domain: RequestDomain
    regulation: Regulation


class Statistics(BaseModel):
    """A year by UTC. Requests to reinstate are not counted: the service makes them."""

    year: int
    served_model: str | None
    counted_at: datetime
    total: Figures
    groups: list[Group]
