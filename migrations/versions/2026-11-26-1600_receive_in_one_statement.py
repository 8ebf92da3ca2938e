"""Functions that store a request, and that receive it in one round trip and one transaction where nothing has to be
decided.

Their names have a number: the version before goes on to use its own while this one is brought in.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

MODELS, FINGERPRINTS = 7_311_003, 7_311_004
"""The advisory locks of app.requests.repository and app.requests.intake_repository."""
COLUMNS = (
    "id, served_model_id, domain, state, subject_reference, legal_basis, client_reference, note, {tries}, {settings}, "
    "created_by, received_at, due_at, completed_at, kind, regulation, fingerprint, duplicate_of_id, traceparent"
)
TERMS = """
CREATE OR REPLACE FUNCTION request_terms_1(m served_model) RETURNS text LANGUAGE sql STABLE AS $terms$
    SELECT md5(jsonb_build_array(m.base_model_path, m.prompt_template, m.context_tokens, m.policy)::text)
$terms$
"""
"""A digest of what requests are checked against."""
STORE = f"""
CREATE OR REPLACE FUNCTION store_request_1(
    requests json, examples json, leaves json, events json
) RETURNS text LANGUAGE plpgsql AS $store$
DECLARE
    stored_as text;
BEGIN
    INSERT INTO request ({COLUMNS.format(tries="tries", settings="settings")})
    SELECT {COLUMNS.format(tries="0", settings="'{}'")}
    FROM json_to_recordset(requests) AS given (
        id uuid, served_model_id uuid, domain request_domain, state request_state, subject_reference text,
        legal_basis text, client_reference text, note text, created_by uuid, received_at timestamptz,
        due_at timestamptz, completed_at timestamptz, kind request_kind, regulation regulation, fingerprint text,
        duplicate_of_id uuid, traceparent text
    )
    RETURNING xmin::text INTO STRICT stored_as;
    INSERT INTO example (
        id, served_model_id, request_id, parent_id, domain, segment, role, position, subject, prompt, completion, facts,
        content_digest, standing, erased_by_request_id, removed_at
    )
    SELECT
        id, served_model_id, request_id, parent_id, domain, segment, role, position, subject, prompt, completion, facts,
        content_digest, standing, erased_by_request_id, removed_at
    FROM json_to_recordset(examples) AS given (
        id uuid, served_model_id uuid, request_id uuid, parent_id uuid, domain example_domain, segment segment,
        role example_role, position integer, subject text, prompt text, completion text, facts jsonb,
        content_digest text, standing boolean, erased_by_request_id uuid, removed_at timestamptz
    );
    INSERT INTO audit (event, subject_id, leaf)
    SELECT event, subject_id, convert_to(leaf, 'UTF8')
    FROM json_to_recordset(leaves) AS given (event text, subject_id text, leaf text);
    INSERT INTO event (kind, request_id, served_model_id, data, created_at)
    SELECT kind, request_id, served_model_id, data, created_at
    FROM json_to_recordset(events) AS given (
        kind text, request_id uuid, served_model_id uuid, data jsonb, created_at timestamptz
    );
    RETURN stored_as;
END
$store$
"""  # noqa: S608 - columns of our own
"""Stores a request with items, leaves and events; its revision."""
RECEIVE = f"""
CREATE OR REPLACE FUNCTION receive_request_1(
    shown_key uuid, model uuid, terms_then text, asked text, digests text[],
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
    PERFORM pg_advisory_xact_lock({FINGERPRINTS}, hashtext(owner::text || asked));
    IF NOT EXISTS (
        SELECT FROM served_model m WHERE m.id = model AND request_terms_1(m) = terms_then
    ) OR EXISTS (
        SELECT FROM request
        WHERE created_by = owner AND fingerprint = asked AND served_model_id = model
            AND completed_at IS NULL AND state <> 'linked' AND kind = 'erase'
    ) OR EXISTS (
        SELECT FROM example WHERE served_model_id = model AND content_digest = ANY(digests) AND standing
    ) THEN
        RETURN NULL;
    END IF;
    RETURN store_request_1(requests, examples, leaves, events);
END
$receive$
"""  # noqa: S608 - two numbers of our own
"""The same where nothing has to be decided; else NULL, with nothing stored."""
FUNCTIONS = {
    "request_terms_1(served_model)": TERMS,
    "store_request_1(json, json, json, json)": STORE,
    "receive_request_1(uuid, uuid, text, text, text[], json, json, json, json)": RECEIVE,
}


def upgrade() -> None:
    for body in FUNCTIONS.values():
        op.execute(body)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION IF EXISTS {name}")
