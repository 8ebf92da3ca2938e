"""`audit` in parts by id, so that old leaves can go a whole part at a time.

The table as it is becomes the first part of one that takes its name, in one transaction that moves no row: a CHECK that
was validated before tells Postgres that nothing has to be looked at. Whoever inserts meanwhile waits for that moment.
What overtakes the parts that were made ahead goes into `audit_beyond`, and is not lost.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

SPAN = 1_000_000
"""Leaves of a part."""
FIRST, BEYOND = "audit_from_0", "audit_beyond"
RENAMED = {"pk_audit": "pk_audit_from_0", "ix_audit_event": "ix_audit_from_0_event",
           "ix_audit_subject_id": "ix_audit_from_0_subject_id"}  # fmt: skip
BOUND = "ck_audit_from_0_is_before"
QUEUES = (
    "CREATE OR REPLACE TRIGGER audit_queues_leaves AFTER INSERT ON audit REFERENCING NEW TABLE AS added "
    "FOR EACH STATEMENT EXECUTE FUNCTION queue_leaves_1()"
)
REFUSES = (
    "CREATE OR REPLACE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {} "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_1()"
)
PARENT = """
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY, event varchar(64) NOT NULL, subject_id varchar(64), leaf bytea NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit PRIMARY KEY (id),
    CONSTRAINT ck_audit_leaf_is_bounded CHECK (octet_length(leaf) BETWEEN 2 AND 8192)
) PARTITION BY RANGE (id)
"""
LIKE_AUDIT = "(LIKE audit INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        last = op.get_bind().execute(sa.text("SELECT coalesce(max(id), 0) FROM audit")).scalar_one()
        end = (last // SPAN + 2) * SPAN
        op.execute(f"ALTER TABLE audit DROP CONSTRAINT IF EXISTS {BOUND}")  # of a try before
        op.execute(f"ALTER TABLE audit ADD CONSTRAINT {BOUND} CHECK (id < {end}) NOT VALID")
        op.execute(f"ALTER TABLE audit VALIDATE CONSTRAINT {BOUND}")
    op.execute("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
    number = _sequence()
    op.execute("DROP TRIGGER audit_queues_leaves ON audit")
    op.execute("ALTER TABLE audit ALTER COLUMN id DROP IDENTITY")
    op.execute(f"ALTER TABLE audit RENAME TO {FIRST}")
    for old, new in RENAMED.items():
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    op.execute(PARENT)
    op.execute("CREATE INDEX ix_audit_event ON audit (event)")
    op.execute("CREATE INDEX ix_audit_subject_id ON audit (subject_id)")
    _set_sequence(number)
    op.execute(f"ALTER TABLE audit ATTACH PARTITION {FIRST} FOR VALUES FROM (MINVALUE) TO ({end})")
    op.execute(f"CREATE TABLE {BEYOND} {LIKE_AUDIT}")
    op.execute(f"ALTER TABLE audit ATTACH PARTITION {BEYOND} DEFAULT")
    op.execute(QUEUES)
    op.execute(REFUSES.format("audit"))
    op.execute(REFUSES.format(BEYOND))


def downgrade() -> None:
    """Everything that is kept lies in one table again."""
    op.execute("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
    number = _sequence()
    names = op.get_bind().execute(sa.text(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit'::regclass"
    )).scalars().all()  # fmt: skip
    if FIRST in names:
        op.execute(f"ALTER TABLE audit DETACH PARTITION {FIRST}")
        op.execute(f"ALTER TABLE {FIRST} DROP CONSTRAINT IF EXISTS {BOUND}")
    else:
        op.execute(f"CREATE TABLE {FIRST} {LIKE_AUDIT}")
        op.execute(f"ALTER INDEX {FIRST}_pkey RENAME TO pk_audit_from_0")
        op.execute(f"ALTER INDEX {FIRST}_event_idx RENAME TO ix_audit_from_0_event")
        op.execute(f"ALTER INDEX {FIRST}_subject_id_idx RENAME TO ix_audit_from_0_subject_id")
    op.execute(f"INSERT INTO {FIRST} SELECT * FROM audit")  # noqa: S608  a constant
    op.execute("DROP TABLE audit")
    op.execute(f"ALTER TABLE {FIRST} RENAME TO audit")
    for old, new in RENAMED.items():
        op.execute(f"ALTER INDEX {new} RENAME TO {old}")
    op.execute("ALTER TABLE audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY")
    _set_sequence(number)
    op.execute(QUEUES)
    op.execute(REFUSES.format("audit"))


def _sequence() -> tuple[int, bool]:
    """Where the numbers of `audit` stand: nobody takes one, the table is locked."""
    row = op.get_bind().execute(sa.text("SELECT last_value, is_called FROM audit_id_seq")).one()
    return row.last_value, row.is_called


def _set_sequence(number: tuple[int, bool]) -> None:
    statement = sa.text("SELECT setval('audit_id_seq', :last, :called)")
    op.get_bind().execute(statement, {"last": number[0], "called": number[1]})
