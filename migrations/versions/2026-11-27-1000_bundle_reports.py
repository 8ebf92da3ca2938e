"""Bundles of reports and attestations of adapter versions; `report.bundled_at` is empty while one is owed.

Reports from before have none and get one: the index finds them, and code of the version before need not know of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
OPEN = "ix_report_not_bundled"


def upgrade() -> None:
    op.create_table(
        "bundle",
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("tried_at", TIME),
        sa.Column("obstacle", sa.String(64)),
        sa.Column("salt", sa.LargeBinary()),
        sa.Column("contents_digest", sa.String(64)),
        sa.Column("statement", sa.LargeBinary()),
        sa.Column("seal", sa.LargeBinary()),
        sa.Column("audit_ids", sa.ARRAY(sa.BigInteger())),
        sa.Column("sealed_at", TIME),
        sa.Column("log_size", sa.BigInteger()),
        sa.Column("checkpoint", sa.LargeBinary()),
        sa.Column("proofs", sa.LargeBinary()),
        sa.Column("digest", sa.String(64)),
        sa.Column("assembled_at", TIME),
        sa.CheckConstraint(
            "sealed_at IS NULL OR num_nulls(contents_digest, statement, seal, audit_ids) = 0",
            name=op.f("ck_bundle_sealed_is_whole"),
        ),
        sa.CheckConstraint(
            "assembled_at IS NULL OR (sealed_at IS NOT NULL AND num_nulls(log_size, checkpoint, proofs, digest) = 0)",
            name=op.f("ck_bundle_assembled_is_whole"),
        ),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name="fk_bundle_report_id_report"),
        sa.PrimaryKeyConstraint("report_id", name="pk_bundle"),
        if_not_exists=True,
    )
    op.create_index("ix_bundle_contents_digest", "bundle", ["contents_digest"], if_not_exists=True)
    op.create_table(
        "attestation",
        sa.Column("adapter_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_attestation_adapter_id_adapter"),
        sa.PrimaryKeyConstraint("adapter_id", "name", name="pk_attestation"),
        if_not_exists=True,
    )
    op.execute("ALTER TABLE report ADD COLUMN IF NOT EXISTS bundled_at TIMESTAMP WITH TIME ZONE")
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {OPEN}")  # of a try before, perhaps broken off
        op.execute(f"CREATE INDEX CONCURRENTLY {OPEN} ON report (id) WHERE bundled_at IS NULL")


def downgrade() -> None:
    op.drop_index(OPEN, "report")
    op.drop_column("report", "bundled_at")
    op.drop_table("attestation")
    op.drop_table("bundle")
