"""Requests that come in at the same time are received in one statement and one commit.

A new function beside the one that took one request; the version before goes on to call that.
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

MODELS, FINGERPRINTS = 7_311_003, 7_311_004
"""The advisory locks of app.requests.repository and app.requests.intake_repository."""
REQUEST = (
    "id, served_model_id, domain, state, subject_reference_sealed, legal_basis, client_reference, note_sealed, "
    "{tries}, {settings}, created_by, received_at, due_at, completed_at, kind, regulation, fingerprint, "
    "duplicate_of_id, traceparent, key_id"
)
EXAMPLE = (
    "id, served_model_id, request_id, parent_id, domain, segment, role, position, key_id, subject_index, "
    "content_sealed, content_digest, standing, erased_by_request_id, removed_at"
)


def unhexed(columns: str) -> str:
    """The same where sealed bytes are still hexadecimal."""
    return ", ".join(
        f"decode({name}, 'hex')" if name.endswith("_sealed") else name for name in columns.split(", ")
    )


RECEIVE = f"""
CREATE OR REPLACE FUNCTION receive_requests_1(
    model uuid, terms_then text, askers json, requests json, examples json, leaves json, events json
) RETURNS TABLE (request uuid, revision text) LANGUAGE plpgsql AS $receive$
DECLARE
    taken uuid[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared({MODELS}, hashtext(model::text));
    PERFORM pg_advisory_xact_lock({FINGERPRINTS}, number) FROM (
        SELECT DISTINCT hashtext(coalesce(k.holder_id, k.id)::text || asks.held) AS number
        FROM json_to_recordset(askers) AS asks (shown_key uuid, held text) JOIN key k ON k.id = asks.shown_key
        ORDER BY number
    ) AS ordered;
    IF NOT EXISTS (SELECT FROM served_model m WHERE m.id = model AND request_terms_2(m) = terms_then) THEN
        RETURN;
    END IF;
    SELECT array_agg(first.id) INTO taken FROM (
        SELECT DISTINCT ON (coalesce(k.holder_id, k.id), asks.asked)
            asks.id, coalesce(k.holder_id, k.id) AS owner, asks.asked, asks.digests
        FROM json_to_recordset(askers) AS asks (id uuid, shown_key uuid, asked text, digests text[])
        JOIN key k ON k.id = asks.shown_key
        WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        ORDER BY coalesce(k.holder_id, k.id), asks.asked, asks.id
    ) AS first
    WHERE NOT (SELECT EXISTS (
        SELECT FROM request r
        WHERE r.created_by = first.owner AND r.fingerprint = first.asked AND r.served_model_id = model
            AND r.completed_at IS NULL AND r.state <> 'linked' AND r.kind = 'erase'
    )) AND NOT (SELECT EXISTS (
        SELECT FROM example e
        WHERE e.served_model_id = model AND e.content_digest = ANY(first.digests) AND e.standing
    ));
    RETURN QUERY
    INSERT INTO request AS made ({REQUEST.format(tries="tries", settings="settings")})
    SELECT {unhexed(REQUEST.format(tries="0", settings="'{}'"))}
    FROM json_to_recordset(requests) AS given (
        id uuid, served_model_id uuid, domain request_domain, state request_state, subject_reference_sealed text,
        legal_basis text, client_reference text, note_sealed text, created_by uuid, received_at timestamptz,
        due_at timestamptz, completed_at timestamptz, kind request_kind, regulation regulation, fingerprint text,
        duplicate_of_id uuid, traceparent text, key_id uuid
    )
    WHERE given.id = ANY(taken)
    RETURNING made.id, made.xmin::text;
    INSERT INTO example ({EXAMPLE})
    SELECT {unhexed(EXAMPLE)}
    FROM json_to_recordset(examples) AS given (
        id uuid, served_model_id uuid, request_id uuid, parent_id uuid, domain example_domain, segment segment,
        role example_role, position integer, key_id uuid, subject_index text, content_sealed text,
        content_digest text, standing boolean, erased_by_request_id uuid, removed_at timestamptz
    )
    WHERE request_id = ANY(taken);
    INSERT INTO audit (event, subject_id, leaf)
    SELECT event, subject_id, convert_to(leaf, 'UTF8')
    FROM json_to_recordset(leaves) AS given (event text, subject_id text, leaf text)
    WHERE subject_id = ANY(taken::text[]);
    INSERT INTO event (kind, request_id, served_model_id, data, created_at)
    SELECT kind, request_id, served_model_id, data, created_at
    FROM json_to_recordset(events) AS given (
        kind text, request_id uuid, served_model_id uuid, data jsonb, created_at timestamptz
    )
    WHERE request_id = ANY(taken);
END
$receive$
"""  # noqa: S608 - two numbers of our own
"""Stores those of which nothing has to be decided, and tells their revisions; of the others nothing is stored. Locks of
what is asked are taken in one order, so that two of these never wait for each other. The two looks for what is there
already stand in a SELECT of their own, so that each is made by index for each request: as joins they would be planned
once for a small table, and read it from end to end when it has grown."""


def upgrade() -> None:
    op.execute(RECEIVE)


def downgrade() -> None:
    op.execute("DROP FUNCTION IF EXISTS receive_requests_1(uuid, text, json, json, json, json, json)")
