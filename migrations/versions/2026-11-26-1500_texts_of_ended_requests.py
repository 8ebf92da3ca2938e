"""Texts of requests that ended before there were days for them get theirs, counted from now: nothing goes at once.

Some thousands of rows a transaction, so that nobody waits for them; begun again it goes on where it stopped.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

WITHOUT_EFFECT = "state IN ('withdrawn', 'refused', 'failed')"
ABOUT_PERSONS = "state = 'published' AND domain = 'privacy' AND kind = 'erase'"
AT_ONCE = 5000


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for which, days in ((WITHOUT_EFFECT, 30), (ABOUT_PERSONS, 90)):
            _some_by_some(f"content_until = now() + interval '{days} days'", f"{which} AND content_until IS NULL")


def downgrade() -> None:
    """The schema before knows days of works alone."""
    op.execute(
        f"UPDATE request SET content_until = NULL WHERE content_until IS NOT NULL "  # noqa: S608  constants
        f"AND content_removed_at IS NULL AND ({WITHOUT_EFFECT} OR {ABOUT_PERSONS})"
    )


def _some_by_some(change: str, which: str) -> None:
    """Each row is looked at once, in the order of ids."""
    statement = sa.text(f"""
        WITH ended AS (
            SELECT id FROM request WHERE id > :after AND {which} AND content_removed_at IS NULL
            ORDER BY id LIMIT {AT_ONCE} FOR UPDATE
        ), changed AS (
            UPDATE request SET {change} FROM ended WHERE request.id = ended.id
        )
        SELECT id FROM ended ORDER BY id DESC LIMIT 1
    """)  # noqa: S608  constants
    after: uuid.UUID | None = uuid.UUID(int=0)
    while after is not None:
        after = op.get_bind().execute(statement, {"after": after}).scalar_one_or_none()
