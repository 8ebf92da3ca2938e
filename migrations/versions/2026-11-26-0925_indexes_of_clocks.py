"""Indexes of lists by regulation and of requests that are batched apart, built while the service writes; the look at
old rows that the new constraint still owes."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

APART = "state IN ('received', 'queued') AND (kind = 'reinstate' OR group_id IS NOT NULL)"
INDEXES: dict[str, tuple[list[str], str | None]] = {
    "ix_request_regulation_id": (["regulation", "id"], None),
    "ix_request_pending_apart": (["served_model_id", "due_at"], APART),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, (columns, where) in INDEXES.items():
            op.drop_index(name, table_name="request", postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, "request", columns, postgresql_where=where, postgresql_concurrently=True)
        op.execute("ALTER TABLE request VALIDATE CONSTRAINT ck_request_held_from_some_state")


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, table_name="request")
