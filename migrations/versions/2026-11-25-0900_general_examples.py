"""Let the standing retain set hold general instruction data: examples get a domain type of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DOMAINS = sa.Enum("privacy", "copyright", "general", name="example_domain")
NO_REQUEST = "ck_example_general_is_of_no_request"
GENERAL = "(SELECT id FROM example WHERE domain = 'general')"


def upgrade() -> None:
    DOMAINS.create(op.get_bind())
    op.execute("ALTER TABLE example ALTER COLUMN domain TYPE example_domain USING domain::text::example_domain")
    op.create_check_constraint(op.f(NO_REQUEST), "example", "domain <> 'general' OR request_id IS NULL")


def downgrade() -> None:
    """General rows have no place in the older schema: they are deleted, and taken out of the batches that drew them."""
    op.execute(f"DELETE FROM batch_example WHERE example_id IN {GENERAL}")  # noqa: S608  a constant of this file
    op.execute("DELETE FROM example WHERE domain = 'general'")
    op.drop_constraint(op.f(NO_REQUEST), "example", type_="check")
    op.execute("ALTER TABLE example ALTER COLUMN domain TYPE request_domain USING domain::text::request_domain")
    DOMAINS.drop(op.get_bind())
