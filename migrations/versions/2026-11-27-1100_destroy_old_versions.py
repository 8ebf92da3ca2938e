"""The end of old versions' weights, who was told of them, approvals by two, and jobs by their end.

Expanding only: columns are nullable, indexes are built while the service writes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMNS = [
    ("adapter", "weights_doomed_at", TIME), ("adapter", "weights_destroyed_at", TIME), ("replica", "key_id", sa.Uuid()),
]  # fmt: skip
REPLICAS_KEY = "fk_replica_key_id_key"
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
    "ix_job_finished_at_id": ("job", ["finished_at", "id"], "finished_at IS NOT NULL"),
    "ix_replica_key_id": ("replica", ["key_id"], "key_id IS NOT NULL"),
}  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "adapter_recipient",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("replica_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("notified_at", TIME, nullable=True),
        sa.Column("notified_by", sa.Uuid(), nullable=True),
        sa.Column("channel", sa.String(32), nullable=True),
        sa.CheckConstraint("num_nonnulls(key_id, replica_id) = 1", name="key_or_replica"),
        sa.CheckConstraint("num_nonnulls(notified_at, notified_by, channel) IN (0, 3)", name="notice_is_whole"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_adapter_recipient_adapter_id_adapter"),
        sa.ForeignKeyConstraint(["key_id"], ["key.id"], name="fk_adapter_recipient_key_id_key"),
        sa.ForeignKeyConstraint(["replica_id"], ["replica.id"], name="fk_adapter_recipient_replica_id_replica"),
        sa.ForeignKeyConstraint(["notified_by"], ["key.id"], name="fk_adapter_recipient_notified_by_key"),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_recipient"),
        sa.UniqueConstraint("adapter_id", "key_id", name="uq_adapter_recipient_adapter_id_key_id"),
        sa.UniqueConstraint("adapter_id", "replica_id", name="uq_adapter_recipient_adapter_id_replica_id"),
        if_not_exists=True,
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_approval_job_id_job"),
        sa.ForeignKeyConstraint(["key_id"], ["key.id"], name="fk_approval_key_id_key"),
        sa.PrimaryKeyConstraint("id", name="pk_approval"),
        sa.UniqueConstraint("job_id", "key_id", name="uq_approval_job_id_key_id"),
        if_not_exists=True,
    )
    with op.get_context().autocommit_block():
        for table, name, kind in COLUMNS:
            op.add_column(table, sa.Column(name, kind, nullable=True), if_not_exists=True)
        op.execute(f"ALTER TABLE replica DROP CONSTRAINT IF EXISTS {REPLICAS_KEY}")
        op.execute(
            f"ALTER TABLE replica ADD CONSTRAINT {REPLICAS_KEY} FOREIGN KEY (key_id) REFERENCES key (id) NOT VALID"
        )
        op.execute(f"ALTER TABLE replica VALIDATE CONSTRAINT {REPLICAS_KEY}")
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
    op.drop_table("adapter_recipient")
    op.drop_table("approval")
