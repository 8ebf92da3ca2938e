"""Indexes of the new columns, built while the service writes, and the look at old rows that constraints still owe."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_request_open_due_at_id": ("request", ["due_at", "id"], "completed_at IS NULL AND held_since IS NULL"),
    "ix_request_fingerprint": ("request", ["created_by", "fingerprint"], "completed_at IS NULL"),
    "ix_request_duplicate_of_id": ("request", ["duplicate_of_id"], "duplicate_of_id IS NOT NULL"),
    "ix_request_original_id": ("request", ["original_id"], "original_id IS NOT NULL"),
    "ix_job_queued_due_at_id": ("job", ["due_at", "id"], "state = 'queued'"),
}
UNSEEN = (
    "ck_request_completed_when_final", "ck_request_extension_is_whole", "ck_request_extended_forward",
    "ck_request_held_since_when_on_hold", "ck_request_hold_is_whole", "ck_request_linked_to_something",
    "ck_request_reinstates_something", "ck_request_refused_with_a_reason", "fk_request_duplicate_of_id_request",
    "fk_request_original_id_request",
)  # fmt: skip


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)
        for constraint in UNSEEN:
            op.execute(f"ALTER TABLE request VALIDATE CONSTRAINT {constraint}")


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
