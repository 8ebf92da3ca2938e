"""States for holds, links, notices and reinstatements; a role for earlier erasures, which no row has.

Labels are added at once and without a transaction: a label must be committed before anything may use it.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ADDED = (
    ("notice", "BEFORE 'received'"),
    ("on_hold", "AFTER 'standing'"),
    ("linked", "AFTER 'on_hold'"),
    ("countered", "AFTER 'linked'"),
    ("reinstated", "AFTER 'countered'"),
    ("refused", "AFTER 'reinstated'"),
)
BEFORE = (
    "received", "queued", "batched", "running", "evaluated", "awaiting_approval", "published", "standing",
    "withdrawn", "failed", "needs_attention",
)  # fmt: skip
FINAL = "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed'))"
PENDING = "state IN ('received', 'queued')"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for label, where in ADDED:
            op.execute(f"ALTER TYPE request_state ADD VALUE IF NOT EXISTS '{label}' {where}")
        op.execute("ALTER TYPE example_role ADD VALUE IF NOT EXISTS 'erased'")


def downgrade() -> None:
    """Labels can not be taken away: the type is made anew, and what uses it with it. Requests in one of the new states
    take the nearest of the old ones."""
    op.drop_constraint(op.f("ck_example_probes_have_a_parent"), "example", type_="check")
    op.execute("ALTER TYPE example_role RENAME TO example_role_later")
    op.execute("CREATE TYPE example_role AS ENUM ('item', 'paraphrase', 'keep', 'measure')")
    op.execute("ALTER TABLE example ALTER COLUMN role TYPE example_role USING role::text::example_role")
    op.execute("DROP TYPE example_role_later")
    rule = "(role = 'item') = (parent_id IS NULL)"
    op.create_check_constraint(op.f("ck_example_probes_have_a_parent"), "example", rule)
    op.drop_constraint(op.f("ck_request_completed_when_final"), "request", type_="check")
    for name in ("pending", "state_id", "served_model_id_state_id"):
        op.drop_index(f"ix_request_{name}", table_name="request")
    op.execute("ALTER TYPE request_state RENAME TO request_state_later")
    op.execute(f"CREATE TYPE request_state AS ENUM ({', '.join(map(repr, BEFORE))})")
    op.execute(
        "ALTER TABLE request ALTER COLUMN state TYPE request_state USING (CASE state::text"
        " WHEN 'notice' THEN 'received' WHEN 'on_hold' THEN 'needs_attention' WHEN 'linked' THEN 'queued'"
        " WHEN 'countered' THEN 'published' WHEN 'reinstated' THEN 'published' WHEN 'refused' THEN 'failed'"
        " ELSE state::text END)::request_state"
    )
    op.execute("DROP TYPE request_state_later")
    op.create_check_constraint(op.f("ck_request_completed_when_final"), "request", FINAL)
    op.create_index("ix_request_pending", "request", ["served_model_id", "due_at"], postgresql_where=PENDING)
    op.create_index("ix_request_state_id", "request", ["state", "id"])
    op.create_index("ix_request_served_model_id_state_id", "request", ["served_model_id", "state", "id"])
