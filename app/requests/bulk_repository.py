"""Every statement by which many requests of one key are stored and settled together, a few for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime

import psycopg
from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.requests.repository import NOT_ACTIVE

BEGIN = """
CREATE TEMPORARY TABLE arrival (
    position integer, id uuid PRIMARY KEY, served_model_id uuid NOT NULL, fingerprint text, first_id uuid
) ON COMMIT DROP;
CREATE TEMPORARY TABLE taken_out (id uuid PRIMARY KEY, request_id uuid NOT NULL) ON COMMIT DROP
"""
ANALYSE = "ANALYZE arrival"
MODELS = "SELECT DISTINCT served_model_id FROM arrival ORDER BY served_model_id"

FIRSTS = """
WITH mine AS (
    SELECT id, position, fingerprint FROM arrival WHERE served_model_id = %(model)s AND fingerprint IS NOT NULL
), open AS (
    SELECT id, fingerprint FROM request
    WHERE created_by = %(key)s AND fingerprint IN (SELECT fingerprint FROM mine) AND served_model_id = %(model)s
        AND completed_at IS NULL AND state <> 'linked' AND kind = 'erase'
        AND NOT EXISTS (SELECT FROM arrival WHERE arrival.id = request.id)
    ORDER BY id
    FOR NO KEY UPDATE
), firsts AS (
    SELECT DISTINCT ON (fingerprint) fingerprint, id
    FROM (SELECT fingerprint, id, -1 AS position FROM open UNION ALL SELECT fingerprint, id, position FROM mine) every
    ORDER BY fingerprint, position, id
)
UPDATE arrival SET first_id = firsts.id FROM firsts
WHERE arrival.served_model_id = %(model)s AND arrival.fingerprint = firsts.fingerprint AND arrival.id <> firsts.id
"""
"""What is asked already comes before anything of the file, and of the file the first."""
LINK = """
UPDATE request SET state = 'linked', duplicate_of_id = arrival.first_id FROM arrival
WHERE request.id = arrival.id AND arrival.first_id IS NOT NULL
"""
LAY_TO_REST = """
UPDATE example SET standing = false FROM arrival
WHERE example.request_id = arrival.id AND arrival.first_id IS NOT NULL AND coalesce(example.standing, false)
"""
LINKED = """
SELECT position, id, first_id, served_model_id FROM arrival
WHERE first_id IS NOT NULL AND position > %(after)s ORDER BY position LIMIT %(limit)s
"""

TAKE_OUT = """
WITH forgets AS (
    SELECT DISTINCT example.content_digest FROM arrival JOIN example ON example.request_id = arrival.id
    WHERE arrival.served_model_id = %(model)s AND segment = 'forget' AND role IN ('item', 'paraphrase')
), touched AS (
    SELECT example.id, example.content_digest FROM arrival JOIN example ON example.request_id = arrival.id
    WHERE arrival.served_model_id = %(model)s AND coalesce(example.standing, false)
    UNION
    SELECT existing.id, content_digest FROM forgets CROSS JOIN LATERAL (
        SELECT id FROM example
        WHERE served_model_id = %(model)s AND content_digest = forgets.content_digest AND coalesce(standing, false)
        OFFSET 0
    ) existing
), erasers AS (
    SELECT content_digest, first.request_id FROM (SELECT DISTINCT content_digest FROM touched) standing
    CROSS JOIN LATERAL (
        SELECT example.request_id FROM example JOIN request ON request.id = example.request_id
        WHERE example.served_model_id = %(model)s AND example.content_digest = standing.content_digest
            AND segment = 'forget' AND role IN ('item', 'paraphrase') AND request.state::text <> ALL(%(not_active)s)
        ORDER BY example.request_id
        LIMIT 1
    ) first
), taken AS (
    UPDATE example SET standing = false, removed_at = %(now)s, erased_by_request_id = erasers.request_id
    FROM touched JOIN erasers USING (content_digest)
    WHERE example.id = touched.id
    RETURNING example.id, example.erased_by_request_id
)
INSERT INTO taken_out SELECT * FROM taken
"""
"""The planner can not know yet what was just stored. Laterals make it look for one content at a time, by its digest;
`coalesce` keeps it from the indexes of what stands, in which it would read all of that each time."""
TAKEN_OUT = """
SELECT id, request_id FROM taken_out WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""


def begin(session: Session) -> None:
    """Make room for what comes together; it goes with the transaction."""
    session.connection().exec_driver_sql(BEGIN)


def copy(session: Session, table: str, columns: Sequence[str], pieces: Iterable[bytes]) -> None:
    """Fill a table from pieces of COPY text. Raises Unavailable."""
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - the one driver of the service
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as into:
            for piece in pieces:
                into.write(piece)
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise Unavailable("the database does not answer") from None


def models(session: Session) -> list[uuid.UUID]:
    """Served models of what came, in the order in which they are locked."""
    session.connection().exec_driver_sql(ANALYSE)
    return [row[0] for row in session.connection().exec_driver_sql(MODELS)]


def link(session: Session, served_model_id: uuid.UUID, key_id: uuid.UUID) -> None:
    """Note which of the requests of a model ask what an open one of the key asks, or one before them."""
    session.connection().exec_driver_sql(FIRSTS, {"model": served_model_id, "key": key_id})


def follow(session: Session) -> None:
    """Link those requests; what they retain rests."""
    session.connection().exec_driver_sql(LINK)
    session.connection().exec_driver_sql(LAY_TO_REST)


def take_out(session: Session, served_model_id: uuid.UUID, now: datetime) -> None:
    """Take out of a model's standing set what an active request forgets, of what came and because of it."""
    values = {"model": served_model_id, "now": now, "not_active": [str(state) for state in NOT_ACTIVE]}
    session.connection().exec_driver_sql(TAKE_OUT, values)


def linked(session: Session, after: int, limit: int) -> list[tuple[int, uuid.UUID, uuid.UUID, uuid.UUID]]:
    """(position, request, the one that it follows, served model) of those that were linked."""
    rows = session.connection().exec_driver_sql(LINKED, {"after": after, "limit": limit})
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def taken_out(session: Session, after: uuid.UUID, limit: int) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(example, the request that erases it) of rows that were taken out."""
    rows = session.connection().exec_driver_sql(TAKEN_OUT, {"after": after, "limit": limit})
    return [(row[0], row[1]) for row in rows]
