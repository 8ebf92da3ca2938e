"""Digests of contents become blind indexes, model by model: when that was, and how requests are received since.

Expanding only. A model from before has plain digests until a sweep keys all of them in one transaction; until then the
version before and this one write the same. Afterwards the version before would look for digests that are not there any
more, so the database refuses its rows: bring in the API first, then the workers, whose sweep it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None

MODELS, FINGERPRINTS = 7_311_003, 7_311_004
"""The advisory locks of app.requests.repository and app.requests.intake_repository."""
TERMS = """
CREATE OR REPLACE FUNCTION request_terms_2(m served_model) RETURNS text LANGUAGE sql STABLE AS $terms$
    SELECT md5(jsonb_build_array(
        m.base_model_path, m.prompt_template, m.context_tokens, m.policy, m.content_keyed_at IS NOT NULL
    )::text)
$terms$
"""
"""A digest of what requests are checked against, and of how their digests are written."""
RECEIVE = f"""
CREATE OR REPLACE FUNCTION receive_request_3(
    shown_key uuid, model uuid, terms_then text, held text, asked text, digests text[],
    requests json, examples json, leaves json, events json
) RETURNS text LANGUAGE plpgsql AS $receive$
DECLARE
    owner uuid;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({MODELS}, hashtext(model::text));
    SELECT coalesce(k.holder_id, k.id) INTO owner FROM key k
    WHERE k.id = shown_key AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());
    IF owner IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock({FINGERPRINTS}, hashtext(owner::text || held));
    IF NOT EXISTS (
        SELECT FROM served_model m WHERE m.id = model AND request_terms_2(m) = terms_then
    ) OR EXISTS (
        SELECT FROM request
        WHERE created_by = owner AND fingerprint = asked AND served_model_id = model
            AND completed_at IS NULL AND state <> 'linked' AND kind = 'erase'
    ) OR EXISTS (
        SELECT FROM example WHERE served_model_id = model AND content_digest = ANY(digests) AND standing
    ) THEN
        RETURN NULL;
    END IF;
    RETURN store_request_2(requests, examples, leaves, events);
END
$receive$
"""  # noqa: S608 - two numbers of our own
"""`receive_request_2` where what is held while it is looked for (`held`) is not what is stored (`asked`)."""
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
        for body in (TERMS, RECEIVE, REFUSE, TRIGGER):
            op.execute(body)


def downgrade() -> None:
    """Raises RuntimeError where digests are keyed: what they were of can not be found out."""
    keyed = "SELECT EXISTS (SELECT FROM served_model WHERE content_keyed_at IS NOT NULL) " \
            "AND EXISTS (SELECT FROM example WHERE content_digest LIKE 'k%')"
    if op.get_bind().execute(sa.text(keyed)).scalar_one():
        raise RuntimeError("digests are keyed, and plain ones can not be made of them: restore a backup instead")
    op.execute("DROP TRIGGER IF EXISTS refuse_plain_digests ON example")
    op.execute("DROP FUNCTION IF EXISTS refuse_plain_digests()")
    op.execute("DROP FUNCTION IF EXISTS receive_request_3("
               "uuid, uuid, text, text, text, text[], json, json, json, json)")
    op.execute("DROP FUNCTION IF EXISTS request_terms_2(served_model)")
    op.drop_column("served_model", "content_keyed_at")
