"""What a request was before it was put on hold. Expanding only: the column is nullable."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATE = postgresql.ENUM(name="request_state", create_type=False)
CHECK = "ck_request_held_from_some_state"


def upgrade() -> None:
    op.add_column("request", sa.Column("held_from", STATE))
    op.create_check_constraint(
        op.f(CHECK), "request", "(held_since IS NULL) = (held_from IS NULL)", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_constraint(op.f(CHECK), "request", type_="check")
    op.drop_column("request", "held_from")
