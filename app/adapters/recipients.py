"""Who has a version, and whether they were told that it is superseded (GDPR, article 19).

A key has it by a download, a replica by having said that it serves it. Acknowledged is who serves a newer one by now: a
replica by its own last word, a key by that of all replicas that speak with it. Who has no replica stays as an officer
left it: told, or not.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from app.adapters import recipients_repository as repository
from app.adapters.schemas import Recipient, RecipientKind, RecipientPage, RecipientState
from app.adapters.service import model_named, version_of
from app.audit.service import record
from app.auth import Principal
from app.errors import Conflict, NotFound
from app.requests.cursors import cursor_of, id_of
from app.tables import AdapterState


class NotSuperseded(Conflict):
    """Nobody has to be told yet."""

    type = "not-superseded"
    title = "This version is not superseded"
    mend = "Recipients are told of versions that hold what was erased since; GET .../adapters lists their states."


def page(session: Session, name: str, version: int, cursor: str | None, limit: int) -> RecipientPage:
    """Who has a version, in the order of their ids. Raises NotFound, BadCursor."""
    adapter = version_of(session, model_named(session, name), version)
    after = id_of(cursor) if cursor else None
    found: list[tuple[RecipientKind, Row[Any]]] = [
        *((RecipientKind.KEY, row) for row in repository.keys(session, adapter, after, limit + 1)),
        *((RecipientKind.REPLICA, row) for row in repository.replicas(session, adapter, after, limit + 1)),
    ]
    found.sort(key=lambda pair: pair[1].id.bytes)
    more = cursor_of(found[limit - 1][1].id) if len(found) > limit else None
    shown = list(_views(found[:limit], version))
    return RecipientPage(
        version=version, state=adapter.state, superseded_at=adapter.superseded_at, items=shown, next_cursor=more
    )


def notify(
    session: Session, name: str, version: int, recipient_id: uuid.UUID, channel: str, who: Principal, now: datetime
) -> Recipient:
    """Note that a recipient was told. Raises NotFound, NotSuperseded."""
    adapter = version_of(session, model_named(session, name), version)
    if adapter.state is not AdapterState.SUPERSEDED:
        raise NotSuperseded(f"version {version} is {adapter.state}")
    kind = repository.kind_of(session, adapter, recipient_id)
    if kind is None:
        raise NotFound("no recipient of this version has this id", mend="GET .../recipients lists them.")
    repository.note_notice(session, adapter.id, kind, recipient_id, channel=channel, by=who.key_id, now=now)
    record(
        session, "adapter.recipient_notified", subject_id=str(adapter.id), at=now, kind=kind, channel=channel,
        recipient_id=str(recipient_id), key_id=str(who.key_id),
    )  # fmt: skip
    read = repository.keys if kind == RecipientKind.KEY else repository.replicas
    before = uuid.UUID(int=recipient_id.int - 1)
    return next(_views([(RecipientKind(kind), read(session, adapter, before, 1)[0])], version))


def _views(found: list[tuple[RecipientKind, Row[Any]]], version: int) -> Iterator[Recipient]:
    for kind, row in found:
        fields = row._asdict()
        yield Recipient(kind=kind, state=_state(fields, version), downloads=fields.pop("downloads", None), **fields)


def _state(fields: dict[str, Any], version: int) -> RecipientState:
    serves = fields["acknowledged_version"]
    if serves is not None and serves > version:
        return RecipientState.ACKNOWLEDGED
    return RecipientState.NOT_NOTIFIED if fields["notified_at"] is None else RecipientState.NOTIFIED
