"""Indexes that keep planning, drawing and lists of dead deliveries as quick with a million rows as with few, built
while the service writes."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PENDING = "state IN ('received', 'queued')"
APART = f"{PENDING} AND (kind = 'reinstate' OR group_id IS NOT NULL)"
IN_FORCE = "state IN ('published', 'countered')"
NEW = {
    "ix_example_standing_subject": (
        "example", ["served_model_id", "domain", "subject", "content_digest", "id"], "standing"
    ),
    "ix_example_standing_digest": ("example", ["served_model_id", "domain", "content_digest", "id"], "standing"),
    "ix_request_pending_in_order": ("request", ["served_model_id", "due_at", "received_at", "id"], PENDING),
    "ix_request_apart_in_order": ("request", ["served_model_id", "due_at", "received_at", "id"], APART),
    "ix_request_in_force": ("request", ["served_model_id", "domain", "id"], IN_FORCE),
    "ix_delivery_dead": ("delivery", ["webhook_id", "id"], "state = 'dead'"),
}
OLD = {
    "ix_example_standing": ("example", ["served_model_id", "domain", "subject", "id"], "standing"),
    "ix_request_pending_apart": ("request", ["served_model_id", "due_at"], APART),
    "ix_request_pending": ("request", ["served_model_id", "due_at"], PENDING),
}


def upgrade() -> None:
    _replace(NEW, OLD)


def downgrade() -> None:
    _replace(OLD, NEW)


def _replace(new: dict[str, tuple[str, list[str], str]], old: dict[str, tuple[str, list[str], str]]) -> None:
    """The new ones are there before the old ones go."""
    with op.get_context().autocommit_block():
        for name, (table, columns, where) in new.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)
        for name, (table, _, _) in old.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
