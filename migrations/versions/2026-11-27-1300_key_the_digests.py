"""Digests of contents become blind indexes, model by model: when that was, and what requests are checked against since.

Expanding only. A model from before has plain digests until a sweep keys all of them in one transaction; until then the
version before and this one write the same. Afterwards the version before would look for digests that are not there any
more, so the database refuses its rows: bring in the API first, then the workers, whose sweep it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

TERMS = """
CREATE OR REPLACE FUNCTION request_terms_2(m served_model) RETURNS text LANGUAGE sql STABLE AS $terms$
    SELECT md5(jsonb_build_array(
        m.base_model_path, m.prompt_template, m.context_tokens, m.policy, m.content_keyed_at IS NOT NULL
    )::text)
$terms$
"""
"""A digest of what requests are checked against, and of how their digests are written."""
REFUSE = """
CREATE OR REPLACE FUNCTION refuse_plain_digests() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
    IF EXISTS (
        SELECT FROM fresh JOIN served_model m ON m.id = fresh.served_model_id
        WHERE m.content_keyed_at IS NOT NULL AND fresh.content_digest NOT LIKE 'k%'
    ) THEN
        RAISE EXCEPTION 'a plain digest beside keyed ones: a version of the service from before still runs'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'example_digests_are_keyed';
    END IF;
    RETURN NULL;
END
$refuse$
"""
TRIGGER = """
CREATE OR REPLACE TRIGGER refuse_plain_digests AFTER INSERT ON example
REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION refuse_plain_digests()
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.add_column("served_model", sa.Column("content_keyed_at", sa.DateTime(timezone=True)), if_not_exists=True)
        for body in (TERMS, REFUSE, TRIGGER):
            op.execute(body)


def downgrade() -> None:
    """Raises RuntimeError where digests are keyed: what they were of can not be found out."""
    keyed = "SELECT EXISTS (SELECT FROM served_model WHERE content_keyed_at IS NOT NULL) " \
            "AND EXISTS (SELECT FROM example WHERE content_digest LIKE 'k%')"
    if op.get_bind().execute(sa.text(keyed)).scalar_one():
        raise RuntimeError("digests are keyed, and plain ones can not be made of them: restore a backup instead")
    op.execute("DROP TRIGGER IF EXISTS refuse_plain_digests ON example")
    op.execute("DROP FUNCTION IF EXISTS refuse_plain_digests()")
    op.execute("DROP FUNCTION IF EXISTS request_terms_2(served_model)")
    op.drop_column("served_model", "content_keyed_at")
