"""What imports look like from outside."""

from __future__ import annotations

import uuid
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.tables import ImportForm, ImportState


class ImportView(BaseModel):
    """An import and how far it has come."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d",
                    "state": "refused",
                    "form": "csv",
                    "partial": False,
                    "rows": 1200,
                    "stored": 0,
                    "imported": 0,
                    "refused": 3,
                    "error": "faulty-rows",
                    "errors": "/v1/imports/01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d/errors",
                    "created_at": "2026-11-24T09:00:00Z",
                    "finished_at": "2026-11-24T09:00:07Z",
                }
            ]
        }
    )

    id: uuid.UUID
    state: ImportState = Field(description="`refused`: rows were wrong, and nothing was imported")
    form: ImportForm
    partial: bool = Field(description="whether right rows are imported beside wrong ones")
    rows: int = Field(ge=0, description="rows of the file that were checked so far")
    stored: int = Field(ge=0, description="requests that are stored so far; of a whole import they show once all are")
    imported: int = Field(ge=0, description="requests that were stored for good")
    refused: int = Field(ge=0, description="requests with something wrong")
    error: str | None = Field(description="why not all of it was imported, as a slug")
    errors: str | None = Field(description="where its faults are, row by row, once it has ended")
    created_at: datetime
    finished_at: datetime | None


class ImportPage(BaseModel):
    """Newest first."""

    items: list[ImportView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last one")
