"""What is removed when its time is over: contents of erased works, events, faults of imports.

Expanding only: columns are nullable or have a default, indexes are built while the service writes, and the constraint
that takes blanked rows, too, is there before the one that does not goes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
BLANK_OR_NOT = "ck_example_completion_is_there_or_removed"
NOT_EMPTY = "ck_example_completion_is_not_empty"
INDEXES = {
    "ix_request_content_until": (
        "request",
        ["content_until", "id"],
        "content_until IS NOT NULL AND content_removed_at IS NULL",
    ),
    "ix_import_faults": ("import", ["finished_at"], "errors_digest IS NOT NULL"),
    "ix_import_open_of_key": ("import", ["created_by"], "state IN ('queued', 'running')"),
}


def added() -> list[tuple[str, sa.Column[object]]]:
    """(table, column) of each."""
    return [
        ("request", sa.Column("content_removed_at", TIME)),
        ("import", sa.Column("stored", sa.Integer(), server_default="0", nullable=False)),
        ("import", sa.Column("errors_removed_at", TIME)),
    ]


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("removed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("floor_xid", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("floor_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("kind", name="pk_retention"),
        if_not_exists=True,
    )
    with op.get_context().autocommit_block():
        for table, column in added():
            op.add_column(table, column, if_not_exists=True)
        _constrain(BLANK_OR_NOT, "length(completion) > 0 OR removed_at IS NOT NULL", instead_of=NOT_EMPTY)
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)


def downgrade() -> None:
    """What was blanked stays so, and gets a word in its place: the schema before wants one."""
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    op.execute("UPDATE example SET completion = '-' WHERE completion = ''")
    _constrain(NOT_EMPTY, "length(completion) > 0", instead_of=BLANK_OR_NOT)
    for table, column in reversed(added()):
        op.drop_column(table, column.name)
    op.drop_table("retention")


def _constrain(name: str, condition: str, *, instead_of: str) -> None:
    op.execute(f"ALTER TABLE example DROP CONSTRAINT IF EXISTS {name}")
    op.execute(f"ALTER TABLE example ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    op.execute(f"ALTER TABLE example VALIDATE CONSTRAINT {name}")
    op.execute(f"ALTER TABLE example DROP CONSTRAINT IF EXISTS {instead_of}")
