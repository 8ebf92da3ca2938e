"""The other side: the least that a FastAPI route can do with one row in the same Postgres.

`/rows` is written as FastAPI's own tutorial has it (`def`, SQLAlchemy, pydantic); `/lean` without any of them (`async
def`, psycopg's own pool, statements as text). Both take the body that `POST /v1/requests` takes and store it as it is,
in one INSERT and commit; both give a row back by one SELECT.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from sqlalchemy import Column as SqlColumn
from sqlalchemy import MetaData, Table, Uuid, create_engine
from sqlalchemy.dialects.postgresql import JSONB

POOL = 10
TABLE = Table("bare_row", MetaData(), SqlColumn("id", Uuid, primary_key=True), SqlColumn("body", JSONB, nullable=False))


class Body(BaseModel):
    """As little as can be said of what comes in."""

    served_model: str
    domain: str
    forget: list[dict[str, Any]]


class Row(BaseModel):
    """A stored row."""

    id: uuid.UUID
    body: dict[str, Any]


def create_app() -> FastAPI:
    """The application, on the database that GRAIL_DATABASE_URL names."""
    url = os.environ["GRAIL_DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://", 1)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=POOL, max_overflow=POOL)
    pool = AsyncConnectionPool(url, min_size=POOL, max_size=POOL * 2, open=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.post("/rows", status_code=201)
    def add(body: Body) -> Row:
        row = Row(id=uuid.uuid4(), body=body.model_dump())
        with engine.begin() as connection:
            connection.execute(TABLE.insert().values(id=row.id, body=row.body))
        return row

    @app.get("/rows/{row_id}")
    def read(row_id: uuid.UUID) -> Row:
        with engine.connect() as connection:
            found = connection.execute(TABLE.select().where(TABLE.c.id == row_id)).one()
        return Row(id=found.id, body=found.body)

    @app.post("/lean", status_code=201)
    async def add_lean(request: Request) -> dict[str, str]:
        row_id, body = uuid.uuid4(), await request.json()
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO bare_row (id, body) VALUES (%s, %s)", (row_id, Jsonb(body)))
        return {"id": str(row_id)}

    @app.get("/lean/{row_id}")
    async def read_lean(row_id: uuid.UUID) -> dict[str, Any]:
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT id, body FROM bare_row WHERE id = %s", (row_id,))
            found = await cursor.fetchone()
        assert found is not None
        return {"id": str(found[0]), "body": found[1]}

    return app
