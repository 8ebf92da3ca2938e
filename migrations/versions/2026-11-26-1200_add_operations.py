"""What operators need: traces of requests and jobs, lost leases, keys that follow one another.

Expanding only: columns are nullable or have a default. Each statement is a transaction
of its own: one that held the locks of two tables would wait in a circle with calls that read both. Columns are added
where they are missing, so that a run whose second half could not get its locks is begun again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0009"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
HOLDER = "fk_key_holder_id_key"
INDEXES = {
    "ix_key_holder_id": ("key", ["holder_id"], "holder_id IS NOT NULL"),
}


def added() -> list[tuple[str, sa.Column[object]]]:
    """(table, column) of each."""
    return [
        ("request", sa.Column("traceparent", sa.String(55))),
        ("job", sa.Column("traceparent", sa.String(55))),
        ("served_model", sa.Column("lease_losses", sa.BigInteger(), server_default="0", nullable=False)),
        ("key", sa.Column("holder_id", sa.Uuid())),
        ("key", sa.Column("expires_at", TIME)),
        ("key", sa.Column("last_used_at", TIME)),
    ]


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, column in added():
            op.add_column(table, column, if_not_exists=True)
        op.execute(f"ALTER TABLE key DROP CONSTRAINT IF EXISTS {HOLDER}")
        op.create_foreign_key(HOLDER, "key", "key", ["holder_id"], ["id"], postgresql_not_valid=True)
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)
        op.execute(f"ALTER TABLE key VALIDATE CONSTRAINT {HOLDER}")


def downgrade() -> None:
    """Keys that followed another are revoked: nothing below knows whose they are."""
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    op.execute("UPDATE key SET revoked_at = now() WHERE holder_id IS NOT NULL AND revoked_at IS NULL")
    op.execute("UPDATE key SET revoked_at = expires_at WHERE expires_at < now() AND revoked_at IS NULL")
    op.drop_constraint(HOLDER, "key", type_="foreignkey")
    for table, column in reversed(added()):
        op.drop_column(table, column.name)
