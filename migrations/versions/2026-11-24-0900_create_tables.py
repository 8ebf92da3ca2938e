"""Create every table, with its invariants in the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=True),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(leaf) BETWEEN 2 AND 8192", name=op.f("ck_audit_leaf_is_bounded")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_event"), "audit", ["event"], unique=False)
    op.create_index(op.f("ix_audit_subject_id"), "audit", ["subject_id"], unique=False)
    op.create_table(
        "key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.Enum("requester", "operator", "officer", "admin", name="key_role"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("length(hash) = 64", name=op.f("ck_key_hash_is_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key")),
        sa.UniqueConstraint("prefix", name=op.f("uq_key_prefix")),
    )
    op.create_table(
        "served_model",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("base_model_path", sa.String(length=1024), nullable=False),
        sa.Column("base_model_digest", sa.String(length=64), nullable=False),
        sa.Column("reference_adapter_path", sa.String(length=1024), nullable=True),
        sa.Column("prompt_template", sa.String(length=4000), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("active_adapter_id", sa.Uuid(), nullable=True),
        sa.Column("alias_revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_served_model_name_is_a_slug")),
        sa.CheckConstraint("alias_revision >= 0", name=op.f("ck_served_model_revision_is_not_negative")),
        sa.CheckConstraint("context_tokens > 0", name=op.f("ck_served_model_context_is_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_served_model")),
        sa.UniqueConstraint("name", name=op.f("uq_served_model_name")),
    )
    op.create_table(
        "adapter",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("directory", sa.String(length=1024), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "state", sa.Enum("candidate", "published", "superseded", "rejected", name="adapter_state"), nullable=False
        ),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state NOT IN ('published', 'superseded') OR published_at IS NOT NULL",
            name=op.f("ck_adapter_published_at_is_set"),
        ),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_adapter_digest_is_sha256")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_adapter_versions_start_at_one")),
        sa.ForeignKeyConstraint(["parent_id"], ["adapter.id"], name=op.f("fk_adapter_parent_id_adapter")),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_adapter_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter")),
        sa.UniqueConstraint("job_id", name=op.f("uq_adapter_job_id")),
        sa.UniqueConstraint("name", name=op.f("uq_adapter_name")),
        sa.UniqueConstraint("served_model_id", "version", name=op.f("uq_adapter_served_model_id_version")),
    )
    op.create_table(
        "batch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Enum("size", "age", "due", "manual", name="batch_reason"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_batch_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
    )
    op.create_index(op.f("ix_batch_served_model_id"), "batch", ["served_model_id"], unique=False)
    op.create_table(
        "request",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("domain", sa.Enum("privacy", "copyright", name="request_domain"), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "received",
                "queued",
                "batched",
                "running",
                "evaluated",
                "awaiting_approval",
                "published",
                "standing",
                "withdrawn",
                "failed",
                "needs_attention",
                name="request_state",
            ),
            nullable=False,
        ),
        sa.Column("subject_reference", sa.String(length=200), nullable=True),
        sa.Column("legal_basis", sa.String(length=200), nullable=True),
        sa.Column("client_reference", sa.String(length=200), nullable=True),
        sa.Column("note", sa.String(length=2000), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("outcome", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed'))",
            name=op.f("ck_request_completed_when_final"),
        ),
        sa.CheckConstraint("due_at > received_at", name=op.f("ck_request_due_after_receipt")),
        sa.CheckConstraint("tries >= 0", name=op.f("ck_request_tries_are_not_negative")),
        sa.ForeignKeyConstraint(["created_by"], ["key.id"], name=op.f("fk_request_created_by_key")),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_request_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request")),
    )
    op.create_index("ix_request_client_reference", "request", ["client_reference"], unique=False)
    op.create_index("ix_request_created_by_id", "request", ["created_by", "id"], unique=False)
    op.create_index("ix_request_domain_id", "request", ["domain", "id"], unique=False)
    op.create_index(
        "ix_request_pending",
        "request",
        ["served_model_id", "due_at"],
        unique=False,
        postgresql_where="state IN ('received', 'queued')",
    )
    op.create_index("ix_request_served_model_id_state_id", "request", ["served_model_id", "state", "id"], unique=False)
    op.create_index("ix_request_state_id", "request", ["state", "id"], unique=False)
    op.create_table(
        "adapter_download",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("downloaded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name=op.f("fk_adapter_download_adapter_id_adapter")),
        sa.ForeignKeyConstraint(["key_id"], ["key.id"], name=op.f("fk_adapter_download_key_id_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter_download")),
    )
    op.create_index("ix_adapter_download_adapter_id", "adapter_download", ["adapter_id", "id"], unique=False)
    op.create_table(
        "batch_member",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("fk_batch_member_batch_id_batch")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_batch_member_request_id_request")),
        sa.PrimaryKeyConstraint("batch_id", "request_id", name=op.f("pk_batch_member")),
    )
    op.create_index("ix_batch_member_request_id", "batch_member", ["request_id"], unique=False)
    op.create_table(
        "example",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("domain", sa.Enum("privacy", "copyright", name="request_domain"), nullable=False),
        sa.Column("segment", sa.Enum("forget", "retain", name="segment"), nullable=False),
        sa.Column("role", sa.Enum("item", "paraphrase", "keep", "measure", name="example_role"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content_digest", sa.String(length=64), nullable=False),
        sa.Column("standing", sa.Boolean(), nullable=False),
        sa.Column("erased_by_request_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(role = 'item') = (parent_id IS NULL)", name=op.f("ck_example_probes_have_a_parent")),
        sa.CheckConstraint("NOT standing OR segment = 'retain'", name=op.f("ck_example_only_retain_stands")),
        sa.CheckConstraint(
            "outcome IN ('forgotten', 'in_base', 'not_forgotten', 'kept', 'lost')",
            name=op.f("ck_example_outcome_is_known"),
        ),
        sa.CheckConstraint(
            "request_id IS NOT NULL OR segment = 'retain'", name=op.f("ck_example_forget_needs_a_request")
        ),
        sa.CheckConstraint("length(completion) > 0", name=op.f("ck_example_completion_is_not_empty")),
        sa.ForeignKeyConstraint(
            ["erased_by_request_id"], ["request.id"], name=op.f("fk_example_erased_by_request_id_request")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["example.id"], name=op.f("fk_example_parent_id_example")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_example_request_id_request")),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_example_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_example")),
    )
    op.create_index("ix_example_parent_id", "example", ["parent_id"], unique=False)
    op.create_index("ix_example_request_id_position", "example", ["request_id", "position"], unique=False)
    op.create_index(
        "ix_example_served_model_id_content_digest", "example", ["served_model_id", "content_digest"], unique=False
    )
    op.create_index(
        "ix_example_standing",
        "example",
        ["served_model_id", "domain", "subject", "id"],
        unique=False,
        postgresql_where="standing",
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "evaluated",
                "awaiting_approval",
                "published",
                "rejected",
                "failed",
                "cancelled",
                name="job_state",
            ),
            nullable=False,
        ),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("losses", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("timings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("artefacts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("gate", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("start_adapter_id", sa.Uuid(), nullable=False),
        sa.Column("candidate_adapter_id", sa.Uuid(), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fencing_token", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('published', 'rejected', 'failed', 'cancelled'))",
            name=op.f("ck_job_finished_when_final"),
        ),
        sa.CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name=op.f("ck_job_running_means_leased")),
        sa.CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name=op.f("ck_job_lease_is_whole")),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_job_progress_is_a_share")),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("fk_job_batch_id_batch")),
        sa.ForeignKeyConstraint(
            ["candidate_adapter_id"], ["adapter.id"], name=op.f("fk_job_candidate_adapter_id_adapter")
        ),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_job_served_model_id_served_model")
        ),
        sa.ForeignKeyConstraint(["start_adapter_id"], ["adapter.id"], name=op.f("fk_job_start_adapter_id_adapter")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_job_batch_id")),
    )
    op.create_index("ix_job_lease_until", "job", ["lease_until"], unique=False, postgresql_where="state = 'running'")
    op.create_index("ix_job_served_model_id_id", "job", ["served_model_id", "id"], unique=False)
    op.create_index("ix_job_state_id", "job", ["state", "id"], unique=False)
    op.create_index(
        "uq_job_one_at_work_per_model",
        "job",
        ["served_model_id"],
        unique=True,
        postgresql_where="state IN ('running', 'evaluated', 'awaiting_approval')",
    )
    op.create_table(
        "replica",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=False),
        sa.Column("replica_id", sa.String(length=128), nullable=False),
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name=op.f("fk_replica_adapter_id_adapter")),
        sa.ForeignKeyConstraint(
            ["served_model_id"], ["served_model.id"], name=op.f("fk_replica_served_model_id_served_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica")),
        sa.UniqueConstraint("served_model_id", "replica_id", name=op.f("uq_replica_served_model_id_replica_id")),
    )
    op.create_table(
        "batch_example",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("example_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("fk_batch_example_batch_id_batch")),
        sa.ForeignKeyConstraint(["example_id"], ["example.id"], name=op.f("fk_batch_example_example_id_example")),
        sa.PrimaryKeyConstraint("batch_id", "example_id", name=op.f("pk_batch_example")),
    )
    op.create_index("ix_batch_example_example_id", "batch_example", ["example_id"], unique=False)
    op.create_table(
        "report",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("schema_version", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_report_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report")),
        sa.UniqueConstraint("job_id", name=op.f("uq_report_job_id")),
    )
    # Two circles: a model points to its active version, a version to the job that made it.
    op.create_foreign_key(
        "fk_served_model_active_adapter_id_adapter",
        "served_model",
        "adapter",
        ["active_adapter_id"],
        ["id"],
        deferrable=True,
        initially="DEFERRED",
    )
    op.create_foreign_key("fk_adapter_job_id_job", "adapter", "job", ["job_id"], ["id"])


ENUMS = (
    "adapter_state",
    "batch_reason",
    "example_role",
    "job_state",
    "key_role",
    "request_domain",
    "request_state",
    "segment",
)


def downgrade() -> None:
    op.drop_constraint("fk_adapter_job_id_job", "adapter", type_="foreignkey")
    op.drop_constraint("fk_served_model_active_adapter_id_adapter", "served_model", type_="foreignkey")
    op.drop_table("report")
    op.drop_index("ix_batch_example_example_id", table_name="batch_example")
    op.drop_table("batch_example")
    op.drop_table("replica")
    op.drop_index(
        "uq_job_one_at_work_per_model",
        table_name="job",
        postgresql_where="state IN ('running', 'evaluated', 'awaiting_approval')",
    )
    op.drop_index("ix_job_state_id", table_name="job")
    op.drop_index("ix_job_served_model_id_id", table_name="job")
    op.drop_index("ix_job_lease_until", table_name="job", postgresql_where="state = 'running'")
    op.drop_table("job")
    op.drop_index("ix_example_standing", table_name="example", postgresql_where="standing")
    op.drop_index("ix_example_served_model_id_content_digest", table_name="example")
    op.drop_index("ix_example_request_id_position", table_name="example")
    op.drop_index("ix_example_parent_id", table_name="example")
    op.drop_table("example")
    op.drop_index("ix_batch_member_request_id", table_name="batch_member")
    op.drop_table("batch_member")
    op.drop_index("ix_adapter_download_adapter_id", table_name="adapter_download")
    op.drop_table("adapter_download")
    op.drop_index("ix_request_state_id", table_name="request")
    op.drop_index("ix_request_served_model_id_state_id", table_name="request")
    op.drop_index("ix_request_pending", table_name="request", postgresql_where="state IN ('received', 'queued')")
    op.drop_index("ix_request_domain_id", table_name="request")
    op.drop_index("ix_request_created_by_id", table_name="request")
    op.drop_index("ix_request_client_reference", table_name="request")
    op.drop_table("request")
    op.drop_index(op.f("ix_batch_served_model_id"), table_name="batch")
    op.drop_table("batch")
    op.drop_table("adapter")
    op.drop_table("served_model")
    op.drop_table("key")
    op.drop_index(op.f("ix_audit_subject_id"), table_name="audit")
    op.drop_index(op.f("ix_audit_event"), table_name="audit")
    op.drop_table("audit")
    for name in ENUMS:
        op.execute(f"DROP TYPE {name}")
