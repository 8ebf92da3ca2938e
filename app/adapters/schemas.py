"""What goes in and out about adapter versions."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.config import bounds
from app.tables.adapter import AdapterState
from app.texts import text_type

BOUNDS = bounds()

if TYPE_CHECKING:
    Reason = str
else:
    Reason = text_type(BOUNDS.max_note_chars)


class AdapterView(BaseModel):
    """An adapter version."""

    version: int
    name: str
    digest: str
    state: AdapterState
    active: bool
    parent: int | None
    job_id: uuid.UUID | None = Field(description="the job that made it; a requester is not told")
    created_at: datetime
    published_at: datetime | None
    superseded_at: datetime | None
    weights_destroyed_at: datetime | None = Field(
        description="when its weights went, which nobody can be given since; manifest and row stay"
    )


class AdapterDetail(AdapterView):
    """With its manifest."""

    manifest: dict[str, Any]


class AdapterPage(BaseModel):
    """Newest first; `next_cursor` is null on the last page."""

    items: list[AdapterView]
    next_cursor: str | None


class Activate(BaseModel):
    """Point the alias at a version. `expected_revision` makes it a compare-and-swap from the caller's view."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "roll forward after the night's checks"}]}
    )

    reason: Reason
    expected_revision: int | None = Field(None, ge=0, le=2**31 - 1)


class Activated(BaseModel):
    """Where the alias points now."""

    version: int
    name: str
    digest: str
    alias_revision: int


class ReplicaAck(BaseModel):
    """What a serving replica now serves."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 2, "digest": "ab" * 32}]})

    version: int = Field(ge=1, le=2**31 - 1)
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ReplicaView(BaseModel):
    """`current`: it serves the active version."""

    replica_id: str
    version: int
    digest: str
    current: bool
    acknowledged_at: datetime


class ReplicaList(BaseModel):
    """Every replica that ever acknowledged."""

    items: list[ReplicaView]


class RecipientKind(StrEnum):
    """What has a version."""

    KEY = "key"
    REPLICA = "replica"


class RecipientState(StrEnum):
    """Whether one who has a superseded version has heard of it."""

    NOT_NOTIFIED = "not_notified"
    NOTIFIED = "notified"
    ACKNOWLEDGED = "acknowledged"


class Recipient(BaseModel):
    """One who has a version. Of a replica that spoke before this was noted, `first_at` is not known."""

    id: uuid.UUID
    kind: RecipientKind
    name: str = Field(description="of the key, or as the replica calls itself")
    state: RecipientState
    first_at: datetime | None = Field(description="first download, or first word of serving it")
    last_at: datetime = Field(description="last download, or the replica's last word about any version")
    downloads: int | None = Field(description="of a key; null for a replica")
    acknowledged_version: int | None = Field(
        description="what it serves by its last word; of a key the oldest that a replica with this key serves"
    )
    notified_at: datetime | None
    notified_by: str | None = Field(description="name of the officer's key")
    channel: str | None


class RecipientPage(BaseModel):
    """In the order of ids; `next_cursor` is null on the last page."""

    version: int
    state: AdapterState
    superseded_at: datetime | None
    items: list[Recipient]
    next_cursor: str | None


class Notice(BaseModel):
    """That a recipient was told, and how."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"channel": "mail"}]})

    channel: Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$", description="one word: mail, letter, portal")]
