"""The one statement that answers where a request stands: key, request, model, counts and last job together."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from app.auth import SEES_ALL
from app.envelope.codec import Codec
from app.envelope.sealing import Place
from app.tables import Request
from app.tables.key import OPEN_NOW_SQL

STATUS = f"""
SELECT k.role, r.*, r.xmin::text, m.name AS model, counted.*,
    (
        SELECT job.id FROM batch_member JOIN job ON job.batch_id = batch_member.batch_id
        WHERE batch_member.request_id = r.id
        ORDER BY batch_member.batch_id DESC LIMIT 1
    ) AS job_id
FROM key k
LEFT JOIN request r ON r.id = %(request)s
    AND (r.created_by = coalesce(k.holder_id, k.id) OR k.role::text = ANY(%(seeing_all)s))
LEFT JOIN served_model m ON m.id = r.served_model_id
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE role = 'item' AND segment = 'forget') AS forget_items,
        count(*) FILTER (WHERE role = 'item' AND segment = 'retain') AS retain_items,
        count(*) FILTER (WHERE role <> 'item') AS probes
    FROM example WHERE request_id = r.id
) counted ON true
WHERE k.id = %(key)s AND {OPEN_NOW_SQL}
"""  # noqa: S608 - a condition of our own


SHOWN = ("extension_reason", "hold_reason", "refusal_reason", "counter_reason")


def find(
    connection: psycopg.Connection[Any], request_id: uuid.UUID, key_id: uuid.UUID, codec: Callable[[], Codec]
) -> Any:
    """The columns of a request that this key may see (all of them NULL for any other), with the key's `role`, `model`,
    `forget_items`, `retain_items`, `probes` and `job_id`. None for a key that is not there, revoked or expired."""
    values = {"request": request_id, "key": key_id, "seeing_all": [str(role) for role in SEES_ALL]}
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        row = cursor.execute(STATUS, values).fetchone()
    return row if row is None else _opened(row, codec)


def _opened(row: Any, codec: Callable[[], Codec]) -> Any:
    """The row with what was written about the request in plain; most have nothing of it."""
    sealed = {name: getattr(row, f"{name}_sealed") for name in SHOWN if getattr(row, f"{name}_sealed") is not None}
    if not sealed or not codec().warm([row.key_id]):
        return row
    spots = [((row.key_id, Place(Request.__tablename__, row.id, name)), value) for name, value in sealed.items()]
    return row._replace(**dict(zip(sealed, codec().open(spots), strict=True)))
