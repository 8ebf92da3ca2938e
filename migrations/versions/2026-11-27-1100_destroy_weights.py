"""The end of old versions' weights.

Expanding only: columns are nullable, indexes are built while the service writes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0018"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMNS = [("adapter", "weights_doomed_at", TIME), ("adapter", "weights_destroyed_at", TIME)]
CHECKS = {
    "ck_adapter_what_is_served_keeps_its_weights": (
        "adapter", "weights_doomed_at IS NULL OR state IN ('superseded', 'rejected')",
    ),
    "ck_adapter_doomed_then_destroyed": ("adapter", "weights_destroyed_at IS NULL OR weights_doomed_at IS NOT NULL"),
}  # fmt: skip
INDEXES = {
    "ix_adapter_weights_kept": (
        "adapter", ["served_model_id", "version"],
        "state IN ('superseded', 'rejected') AND weights_doomed_at IS NULL",
    ),
    "ix_adapter_weights_doomed": (
        "adapter", ["weights_doomed_at"], "weights_doomed_at IS NOT NULL AND weights_destroyed_at IS NULL",
    ),
}  # fmt: skip


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, name, kind in COLUMNS:
            op.add_column(table, sa.Column(name, kind, nullable=True), if_not_exists=True)
        for name, (table, condition) in CHECKS.items():
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)


def downgrade() -> None:
    """Versions whose weights were destroyed look damaged to the code before."""
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    for name, (table, _) in CHECKS.items():
        op.drop_constraint(name, table)
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
