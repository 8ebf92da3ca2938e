"""What goes out about attestations."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class AttestationView(BaseModel):
    """A signed statement about a version."""

    name: str = Field(description="a file's name; `model.sig` is for the `model_signing` package, `model.pub` its key")
    body: str = Field(description="the file's bytes, which are ASCII")
    created_at: datetime


class AttestationList(BaseModel):
    """Everything that was signed about a version; empty while nothing was."""

    items: list[AttestationView]
