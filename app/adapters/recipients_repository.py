"""Every statement about who has a version."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from app.tables import Adapter, AdapterDownload, AdapterRecipient, Key, Replica

Officer = aliased(Key)
Current = aliased(Adapter)
NOTICE: tuple[Any, ...] = (AdapterRecipient.notified_at, AdapterRecipient.channel, Officer.name.label("notified_by"))


def note_replica(session: Session, adapter_id: uuid.UUID, replica_id: uuid.UUID) -> None:
    """A replica has had a version; once is enough."""
    statement = insert(AdapterRecipient).values(adapter_id=adapter_id, replica_id=replica_id)
    session.execute(statement.on_conflict_do_nothing())


def keys(session: Session, adapter: Adapter, after: uuid.UUID | None, limit: int) -> Sequence[Row[Any]]:
    """Keys that downloaded a version, in id order: (id, name, first_at, last_at, downloads, acknowledged_version and
    the notice). Acknowledged is what the last of the replicas serves that speak with the key."""
    serving = (
        select(func.min(Current.version))
        .join(Replica, Replica.adapter_id == Current.id)
        .where(Replica.key_id == Key.id, Replica.served_model_id == adapter.served_model_id)
        .scalar_subquery()
    )
    pulled = (
        select(
            AdapterDownload.key_id,
            func.min(AdapterDownload.downloaded_at).label("first_at"),
            func.max(AdapterDownload.downloaded_at).label("last_at"),
            func.count().label("downloads"),
        )
        .where(AdapterDownload.adapter_id == adapter.id)
        .group_by(AdapterDownload.key_id)
        .subquery()
    )
    statement = (
        select(
            Key.id, Key.name, pulled.c.first_at, pulled.c.last_at, pulled.c.downloads,
            serving.label("acknowledged_version"), *NOTICE,
        )
        .join(pulled, pulled.c.key_id == Key.id)
        .outerjoin(
            AdapterRecipient,
            (AdapterRecipient.adapter_id == adapter.id) & (AdapterRecipient.key_id == Key.id),
        )
        .outerjoin(Officer, Officer.id == AdapterRecipient.notified_by)
    )  # fmt: skip
    return session.execute(_page(statement, Key.id, after, limit)).all()


def replicas(session: Session, adapter: Adapter, after: uuid.UUID | None, limit: int) -> Sequence[Row[Any]]:
    """Replicas that serve a version or once said so, in id order: the same columns."""
    shown: tuple[Any, ...] = (
        Replica.id, Replica.replica_id.label("name"), AdapterRecipient.created_at.label("first_at"),
        Replica.acknowledged_at.label("last_at"), Current.version.label("acknowledged_version"), *NOTICE,
    )  # fmt: skip
    statement = (
        select(*shown)
        .select_from(Replica)
        .join(Current, Current.id == Replica.adapter_id)
        .outerjoin(
            AdapterRecipient,
            (AdapterRecipient.adapter_id == adapter.id) & (AdapterRecipient.replica_id == Replica.id),
        )
        .outerjoin(Officer, Officer.id == AdapterRecipient.notified_by)
        .where(
            Replica.served_model_id == adapter.served_model_id,
            or_(Replica.adapter_id == adapter.id, AdapterRecipient.id.is_not(None)),
        )
    )
    return session.execute(_page(statement, Replica.id, after, limit)).all()


def kind_of(session: Session, adapter: Adapter, recipient_id: uuid.UUID) -> str | None:
    """`key` or `replica`, whichever of this id has had the version; None when neither."""
    downloads = select(AdapterDownload.id).where(
        AdapterDownload.adapter_id == adapter.id, AdapterDownload.key_id == recipient_id
    )
    if session.scalar(select(downloads.exists())):
        return "key"
    said = select(AdapterRecipient.id).where(
        AdapterRecipient.adapter_id == adapter.id, AdapterRecipient.replica_id == recipient_id
    )
    serves = select(Replica.id).where(Replica.adapter_id == adapter.id, Replica.id == recipient_id)
    return "replica" if session.scalar(select(or_(said.exists(), serves.exists()))) else None


def note_notice(
    session: Session, adapter_id: uuid.UUID, kind: str, recipient_id: uuid.UUID, *, channel: str, by: uuid.UUID,
    now: datetime,
) -> None:  # fmt: skip
    """Write that a recipient was told, by whom and how; the last time counts."""
    column = f"{kind}_id"
    told = {"notified_at": now, "notified_by": by, "channel": channel}
    statement = insert(AdapterRecipient).values(adapter_id=adapter_id, **{column: recipient_id}, **told)
    session.execute(statement.on_conflict_do_update(index_elements=["adapter_id", column], set_=told))


def _page(statement: Select[Any], column: Any, after: uuid.UUID | None, limit: int) -> Select[Any]:
    if after is not None:
        statement = statement.where(column > after)
    return statement.order_by(column).limit(limit)
