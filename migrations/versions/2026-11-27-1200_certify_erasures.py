"""Certificates of erasure; `report.certified_at` is empty while those of its job's requests are owed.

Reports from before have none and get them: the index finds them, and code of the version before need not know of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMNS = ("certified_at", "certify_tried_at")
INDEXES = {
    "ix_report_not_certified": ("report", ["id"], "certified_at IS NULL"),
    "ix_checkpoint_size_id": ("checkpoint", ["size", "id"], None),
}


def upgrade() -> None:
    op.create_table(
        "certificate",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("schema_version", sa.String(32), nullable=False),
        sa.Column("audit_id", sa.BigInteger(), nullable=False),
        sa.Column("report_audit_id", sa.BigInteger()),
        sa.Column("issued_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name="fk_certificate_request_id_request"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_certificate_job_id_job"),
        sa.PrimaryKeyConstraint("id", name="pk_certificate"),
        sa.UniqueConstraint("request_id", name="uq_certificate_request_id"),
        if_not_exists=True,
    )
    op.create_index("ix_certificate_digest", "certificate", ["digest"], if_not_exists=True)
    op.create_index("ix_certificate_job_id", "certificate", ["job_id", "request_id"], if_not_exists=True)
    for name in COLUMNS:
        op.add_column("report", sa.Column(name, TIME, nullable=True), if_not_exists=True)
    with op.get_context().autocommit_block():
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)


def downgrade() -> None:
    """What was certified stays in the audit trail; its documents become files that no row names."""
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    for name in reversed(COLUMNS):
        op.drop_column("report", name)
    op.drop_table("certificate")
