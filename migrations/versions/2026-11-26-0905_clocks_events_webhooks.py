"""Columns for clocks, holds and job retries; tables for events, webhooks, idempotency and imports.

Expanding only: columns are nullable or have defaults, so that a service of the version before goes on working on the
new schema. Constraints are added without looking at the rows that are there; the next migration does that.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSONB = postgresql.JSONB(astext_type=sa.Text())
NOW = sa.text("now()")
ENUMS = {
    "request_kind": ("erase", "reinstate"),
    "regulation": ("gdpr", "ccpa", "copyright", "none"),
    "hold_kind": ("identity", "scope", "legal"),
    "job_kind": ("unlearn", "reinstate"),
    "delivery_state": ("pending", "delivered", "dead"),
    "import_state": ("queued", "running", "imported", "refused", "failed"),
    "import_form": ("jsonl", "csv"),
}
FINAL = (
    "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed', 'refused', "
    "'countered', 'reinstated'))"
)
FINAL_BEFORE = "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed'))"
CHECKS = {
    "completed_when_final": FINAL,
    "extension_is_whole": "(extended_at IS NULL) = (first_due_at IS NULL)",
    "extended_forward": "due_at >= first_due_at",
    "held_since_when_on_hold": "(state = 'on_hold') = (held_since IS NOT NULL)",
    "hold_is_whole": "(held_since IS NULL) = (hold_kind IS NULL)",
    "linked_to_something": "state <> 'linked' OR duplicate_of_id IS NOT NULL",
    "reinstates_something": "(kind = 'reinstate') = (original_id IS NOT NULL)",
    "refused_with_a_reason": "state <> 'refused' OR refusal_reason IS NOT NULL",
}


def kind(name: str) -> postgresql.ENUM:
    """One of the new types, made once."""
    return postgresql.ENUM(*ENUMS[name], name=name, create_type=False)


def of_request() -> list[sa.Column[object]]:
    return [
        sa.Column("kind", kind("request_kind"), server_default="erase", nullable=False),
        sa.Column("regulation", kind("regulation"), server_default="none", nullable=False),
        sa.Column("first_due_at", TIME),
        sa.Column("extended_at", TIME),
        sa.Column("extension_reason", sa.String(2000)),
        sa.Column("held_since", TIME),
        sa.Column("hold_kind", kind("hold_kind")),
        sa.Column("hold_reason", sa.String(2000)),
        sa.Column("refusal_reason", sa.String(2000)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("duplicate_of_id", sa.Uuid()),
        sa.Column("original_id", sa.Uuid()),
        sa.Column("group_id", sa.Uuid()),
        sa.Column("countered_at", TIME),
        sa.Column("counter_reason", sa.String(2000)),
        sa.Column("content_until", TIME),
    ]


def of_job() -> list[sa.Column[object]]:
    return [
        sa.Column("kind", kind("job_kind"), server_default="unlearn", nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("not_before", TIME),
        sa.Column("put_off", sa.Integer(), server_default="0", nullable=False),
        sa.Column("needed_bytes", sa.BigInteger()),
    ]


def of_served_model() -> list[sa.Column[object]]:
    return [
        sa.Column("breaker_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("breaker_opened_at", TIME),
        sa.Column("breaker_error", JSONB),
    ]


ADDED = {"request": of_request, "job": of_job, "served_model": of_served_model}


def upgrade() -> None:
    for name, labels in ENUMS.items():
        postgresql.ENUM(*labels, name=name).create(op.get_bind())
    for table, columns in ADDED.items():
        for column in columns():
            op.add_column(table, column)
    op.drop_constraint(op.f("ck_request_completed_when_final"), "request", type_="check")
    for name, rule in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_request_{name}"), "request", rule, postgresql_not_valid=True)
    for column in ("duplicate_of_id", "original_id"):
        name = f"fk_request_{column}_request"
        op.create_foreign_key(name, "request", "request", [column], ["id"], postgresql_not_valid=True)
    _create_event()
    _create_webhook()
    _create_delivery()
    _create_idempotency()
    _create_import()


def _create_event() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "xid", sa.BigInteger(), server_default=sa.text("pg_current_xact_id()::text::bigint"), nullable=False
        ),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("request_id", sa.Uuid()),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("served_model_id", sa.Uuid()),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_event_request_id_request")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_event_job_id_job")),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_event_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index("ix_event_xid_id", "event", ["xid", "id"])
    for column in ("request_id", "job_id"):
        op.create_index(
            f"ix_event_{column}", "event", [column, "xid", "id"], postgresql_where=f"{column} IS NOT NULL"
        )


def _create_webhook() -> None:
    op.create_table(
        "webhook",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("kinds", JSONB, nullable=False),
        sa.Column("secret_generation", sa.Integer(), nullable=False),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("after_xid", sa.BigInteger(), nullable=False),
        sa.Column("after_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("disabled_at", TIME),
        sa.CheckConstraint("secret_generation > 0", name=op.f("ck_webhook_generation_is_positive")),
        sa.ForeignKeyConstraint(["created_by"], ["key.id"], name=op.f("fk_webhook_created_by_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook")),
    )
    op.create_index("ix_webhook_created_by", "webhook", ["created_by"])


def _create_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("state", kind("delivery_state"), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", TIME, server_default=NOW, nullable=False),
        sa.Column("last_status", sa.Integer()),
        sa.Column("last_error", sa.String(64)),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("delivered_at", TIME),
        sa.CheckConstraint(
            "(delivered_at IS NOT NULL) = (state = 'delivered')", name=op.f("ck_delivery_delivered_when_told")
        ),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhook.id"], name=op.f("fk_delivery_webhook_id_webhook")),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("fk_delivery_event_id_event")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("webhook_id", "event_id", name=op.f("uq_delivery_webhook_id_event_id")),
    )
    op.create_index("ix_delivery_next_at", "delivery", ["next_at"], postgresql_where="state = 'pending'")
    op.create_index("ix_delivery_webhook_id_id", "delivery", ["webhook_id", "id"])
    op.create_index("ix_delivery_event_id", "delivery", ["event_id"])


def _create_idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", JSONB, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["key.id"], name=op.f("fk_idempotency_key_id_key")),
        sa.PrimaryKeyConstraint("key_id", "name", name=op.f("pk_idempotency")),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])


def _create_import() -> None:
    op.create_table(
        "import",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("state", kind("import_state"), nullable=False),
        sa.Column("form", kind("import_form"), nullable=False),
        sa.Column("partial", sa.Boolean(), nullable=False),
        sa.Column("upload", sa.String(200)),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("imported", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("errors_digest", sa.String(64)),
        sa.Column("error", sa.String(64)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_until", TIME),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("finished_at", TIME),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('imported', 'refused', 'failed'))",
            name=op.f("ck_import_finished_when_final"),
        ),
        sa.ForeignKeyConstraint(["created_by"], ["key.id"], name=op.f("fk_import_created_by_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import")),
    )
    op.create_index("ix_import_created_by_id", "import", ["created_by", "id"])
    op.create_index("ix_import_open", "import", ["id"], postgresql_where="state IN ('queued', 'running')")


def downgrade() -> None:
    """What the older schema has no place for goes: events, webhooks, kept answers, notes of imports; requests to
    reinstate end as failed ones would, since nothing below knows how to serve them."""
    for table in ("delivery", "webhook", "event", "idempotency", "import"):
        op.drop_table(table)
    for column in ("duplicate_of_id", "original_id"):
        op.drop_constraint(f"fk_request_{column}_request", "request", type_="foreignkey")
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_request_{name}"), "request", type_="check")
    op.execute(
        "UPDATE request SET state = CASE state WHEN 'refused' THEN 'failed' WHEN 'countered' THEN 'published'"
        " WHEN 'reinstated' THEN 'published' WHEN 'on_hold' THEN 'needs_attention' WHEN 'linked' THEN 'queued'"
        " WHEN 'notice' THEN 'received' ELSE state END"
    )
    op.create_check_constraint(op.f("ck_request_completed_when_final"), "request", FINAL_BEFORE)
    for table, columns in ADDED.items():
        for column in columns():
            op.drop_column(table, column.name)
    for name, labels in ENUMS.items():
        postgresql.ENUM(*labels, name=name).drop(op.get_bind())
