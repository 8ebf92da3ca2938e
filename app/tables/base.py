"""The declarative base, naming convention and column kinds. Every time is with time zone; every enum is an enum."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from sqlalchemy import DateTime, Enum, FetchedValue, MetaData, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.ids import new_id

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Every table of ours; constraint names are derived, so that migrations can name them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: JSONB,
    }


Id = Annotated[uuid.UUID, mapped_column(primary_key=True, default=new_id)]
"""Made in Python (UUIDv7 shape), since Postgres < 18 has no uuidv7()."""

Created = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]

Revision = Annotated[
    str, mapped_column(String, system=True, server_default=FetchedValue(), server_onupdate=FetchedValue())
]
"""Named `xmin` Postgres fills it in by itself: the transaction that wrote the row, read together with it."""


def enum_of(kind: type[StrEnum], name: str) -> Enum:
    """A Postgres enum type whose labels are the values of `kind`."""
    return Enum(kind, name=name, values_callable=lambda members: [member.value for member in members])
