"""When a webhook's secret was changed and since when it fails; webhooks of one request; what is due of one webhook.

Expanding only: the columns are nullable, the tables were made by the migration before and are small.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("webhook", sa.Column("rotated_at", TIME))
    op.add_column("webhook", sa.Column("failing_since", TIME))
    op.add_column("webhook", sa.Column("request_id", sa.Uuid()))
    op.create_foreign_key(op.f("fk_webhook_request_id_request"), "webhook", "request", ["request_id"], ["id"])
    op.create_index("ix_webhook_request_id", "webhook", ["request_id"], postgresql_where="request_id IS NOT NULL")
    op.create_index("ix_webhook_active", "webhook", ["id"], postgresql_where="disabled_at IS NULL")
    op.create_index(
        "ix_delivery_webhook_id_next_at", "delivery", ["webhook_id", "next_at"], postgresql_where="state = 'pending'"
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_webhook_id_next_at", table_name="delivery")
    op.drop_index("ix_webhook_active", table_name="webhook")
    op.drop_index("ix_webhook_request_id", table_name="webhook")
    op.drop_constraint(op.f("fk_webhook_request_id_request"), "webhook", type_="foreignkey")
    for name in ("request_id", "failing_since", "rotated_at"):
        op.drop_column("webhook", name)
