"""What people write is sealed: columns for sealed bytes, keys and blind indexes, and the functions that store them.

Expanding only: plain columns stay and may be empty from now on. The version before goes on to write them, and can not
read what this one writes: bring in its workers first, then the API. The sweep seals what stands there plain.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

MODELS, FINGERPRINTS = 7_311_003, 7_311_004
"""The advisory locks of app.requests.repository and app.requests.intake_repository."""
WORDS = ("subject_reference", "note", "extension_reason", "hold_reason", "refusal_reason", "counter_reason")
PLAIN = {"subject": sa.String(200), "prompt": sa.Text(), "completion": sa.Text(), "facts": None}
CHECKS = {
    "ck_example_content_is_there_or_removed": (
        "example", "content_sealed IS NOT NULL OR length(completion) > 0 OR removed_at IS NOT NULL"
    ),
    "ck_example_sealed_under_a_key": ("example", "content_sealed IS NULL OR key_id IS NOT NULL"),
    "ck_example_sealed_or_plain": ("example", "content_sealed IS NULL OR completion IS NULL"),
    "ck_request_refused_with_a_reason_or_over": (
        "request",
        "state <> 'refused' OR refusal_reason IS NOT NULL OR refusal_reason_sealed IS NOT NULL "
        "OR content_removed_at IS NOT NULL",
    ),
}  # fmt: skip
OLD_CHECKS = {
    "ck_example_completion_is_there_or_removed": (
        "example", "length(completion) > 0 OR removed_at IS NOT NULL"
    ),
    "ck_request_refused_with_a_reason": ("request", "state <> 'refused' OR refusal_reason IS NOT NULL"),
}  # fmt: skip
INDEXES = {
    "ix_example_standing_subject_index": (
        "example", ["served_model_id", "domain", "subject_index", "content_digest", "id"], "standing"
    ),
    "ix_example_not_sealed": ("example", ["id"], "completion IS NOT NULL"),
    "ix_request_not_sealed": ("request", ["id"], " OR ".join(f"{name} IS NOT NULL" for name in WORDS)),
}  # fmt: skip
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


STORE = f"""
CREATE OR REPLACE FUNCTION store_request_2(
    requests json, examples json, leaves json, events json
) RETURNS text LANGUAGE plpgsql AS $store$
DECLARE
    stored_as text;
BEGIN
    INSERT INTO request ({REQUEST.format(tries="tries", settings="settings")})
    SELECT {unhexed(REQUEST.format(tries="0", settings="'{}'"))}
    FROM json_to_recordset(requests) AS given (
        id uuid, served_model_id uuid, domain request_domain, state request_state, subject_reference_sealed text,
        legal_basis text, client_reference text, note_sealed text, created_by uuid, received_at timestamptz,
        due_at timestamptz, completed_at timestamptz, kind request_kind, regulation regulation, fingerprint text,
        duplicate_of_id uuid, traceparent text, key_id uuid
    )
    RETURNING xmin::text INTO STRICT stored_as;
    INSERT INTO example ({EXAMPLE})
    SELECT {unhexed(EXAMPLE)}
    FROM json_to_recordset(examples) AS given (
        id uuid, served_model_id uuid, request_id uuid, parent_id uuid, domain example_domain, segment segment,
        role example_role, position integer, key_id uuid, subject_index text, content_sealed text,
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
CREATE OR REPLACE FUNCTION receive_request_2(
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
    RETURN store_request_2(requests, examples, leaves, events);
END
$receive$
"""  # noqa: S608 - two numbers of our own
"""The same where nothing has to be decided; else NULL, with nothing stored."""
FUNCTIONS = {
    "store_request_2(json, json, json, json)": STORE,
    "receive_request_2(uuid, uuid, text, text, text[], json, json, json, json)": RECEIVE,
}


def added() -> list[tuple[str, sa.Column[object]]]:
    """(table, column) of each."""
    return [
        ("request", sa.Column("key_id", sa.Uuid())),
        *(("request", sa.Column(f"{name}_sealed", sa.LargeBinary())) for name in WORDS),
        ("example", sa.Column("key_id", sa.Uuid())),
        ("example", sa.Column("subject_index", sa.String(64))),
        ("example", sa.Column("content_sealed", sa.LargeBinary())),
    ]


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, column in added():
            op.add_column(table, column, if_not_exists=True)
        for name in PLAIN:
            op.alter_column("example", name, nullable=True)
        _constrain(CHECKS, OLD_CHECKS)
        for name, (table, columns, where) in INDEXES.items():
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)  # a half-built one
            op.create_index(name, table, columns, postgresql_where=where, postgresql_concurrently=True)
        for body in FUNCTIONS.values():
            op.execute(body)


def downgrade() -> None:
    """Raises RuntimeError where anything is sealed: the schema before has no place for it."""
    sealed = " UNION ALL ".join(
        [f"SELECT FROM request WHERE {name}_sealed IS NOT NULL" for name in WORDS]
        + ["SELECT FROM example WHERE content_sealed IS NOT NULL"]
    )
    if op.get_bind().execute(sa.text(f"SELECT EXISTS ({sealed})")).scalar_one():
        raise RuntimeError("content is sealed, which the schema before can not hold: restore a backup instead")
    op.execute("UPDATE example SET subject = coalesce(subject, ''), prompt = coalesce(prompt, ''), "
               "completion = coalesce(completion, ''), facts = coalesce(facts, '[]') "
               "WHERE subject IS NULL OR prompt IS NULL OR completion IS NULL OR facts IS NULL")
    op.execute("UPDATE request SET refusal_reason = '[removed]' WHERE state = 'refused' AND refusal_reason IS NULL")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION IF EXISTS {name}")
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    _constrain(OLD_CHECKS, CHECKS)
    for name in PLAIN:
        op.alter_column("example", name, nullable=False)
    for table, column in reversed(added()):
        op.drop_column(table, column.name)


def _constrain(new: dict[str, tuple[str, str]], old: dict[str, tuple[str, str]]) -> None:
    """The new ones are there and looked at before the old ones go."""
    for name, (table, condition) in new.items():
        op.drop_constraint(op.f(name), table, type_="check", if_exists=True)
        op.create_check_constraint(op.f(name), table, condition, postgresql_not_valid=True)
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    for name, (table, _) in old.items():
        op.drop_constraint(op.f(name), table, type_="check", if_exists=True)
