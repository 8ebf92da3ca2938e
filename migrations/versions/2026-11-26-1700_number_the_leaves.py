"""The audit log: a queue of leaves without a number, their numbers and hashes, the tree, checkpoints and verifier keys.

What was written is refused to be changed or removed by the database itself. Leaves from before are queued some
thousands a transaction; begun again it goes on. Functions have a number in their name, as those of 0016.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
AT_ONCE = 10_000
KEPT = ("log_leaf", "log_node", "checkpoint")
"""New tables whose rows are never changed or removed; so are those of `audit`."""
QUEUE = """
CREATE OR REPLACE FUNCTION queue_leaves_1() RETURNS trigger LANGUAGE plpgsql AS $queue$
BEGIN
    INSERT INTO audit_pending (audit_id) SELECT id FROM added;
    RETURN NULL;
END
$queue$
"""
REFUSE = """
CREATE OR REPLACE FUNCTION refuse_change_1() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or removed (% was refused)', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation',
        HINT = 'The audit log is append-only. Old leaves expire by `grail log expire`, see docs/operations.md.';
END
$refuse$
"""
TRIGGERS = {
    "audit_queues_leaves": "AFTER INSERT ON audit REFERENCING NEW TABLE AS added FOR EACH STATEMENT "
    "EXECUTE FUNCTION queue_leaves_1()",
    "audit_is_append_only": "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT "
    "EXECUTE FUNCTION refuse_change_1()",
}
QUEUE_SOME = sa.text(f"""
    WITH found AS (
        SELECT id FROM audit WHERE id > :after AND id <= :last ORDER BY id LIMIT {AT_ONCE}
    ), queued AS (
        INSERT INTO audit_pending (audit_id)
        SELECT id FROM found WHERE NOT EXISTS (SELECT FROM log_leaf WHERE audit_id = found.id)
        ON CONFLICT DO NOTHING
    )
    SELECT max(id) FROM found
""")  # noqa: S608  constants


def upgrade() -> None:
    _create_tables()
    op.execute(QUEUE)
    op.execute(REFUSE)
    for table in KEPT:
        op.execute(
            f"CREATE OR REPLACE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_1()"
        )
    with op.get_context().autocommit_block():
        for name, rest in TRIGGERS.items():
            op.execute(f"CREATE OR REPLACE TRIGGER {name} {rest}")
        _queue_what_was_before()


def downgrade() -> None:
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER IF EXISTS {name} ON audit")
    for table in ("audit_pending", *KEPT, "log_key"):
        op.drop_table(table)
    op.execute("DROP FUNCTION queue_leaves_1()")
    op.execute("DROP FUNCTION refuse_change_1()")


def _queue_what_was_before() -> None:
    """The trigger waited for every transaction that had written before it: all of theirs is there to be seen."""
    connection = op.get_bind()
    after, last = 0, connection.execute(sa.text("SELECT max(id) FROM audit")).scalar_one()
    while after is not None:
        after = connection.execute(QUEUE_SOME, {"after": after, "last": last}).scalar_one()


def _create_tables() -> None:
    op.create_table(
        "audit_pending",
        sa.Column("audit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name="pk_audit_pending"),
        if_not_exists=True,
    )
    op.execute(
        "ALTER TABLE audit_pending SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, "
        "vacuum_truncate = false)"  # a queue: what was taken lies in front of what comes next until it is cleared
    )
    op.create_table(
        "log_leaf",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("audit_id", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_log_leaf_hash_is_sha256")),
        sa.PrimaryKeyConstraint("position", name="pk_log_leaf"),
        sa.UniqueConstraint("audit_id", name="uq_log_leaf_audit_id"),
        if_not_exists=True,
    )
    op.create_index("ix_log_leaf_hash", "log_leaf", ["hash"], postgresql_using="hash", if_not_exists=True)
    op.create_table(
        "log_node",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_log_node_hash_is_sha256")),
        sa.PrimaryKeyConstraint("level", "index", name="pk_log_node"),
        if_not_exists=True,
    )
    op.create_table(
        "checkpoint",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("size > 0", name=op.f("ck_checkpoint_size_is_positive")),
        sa.CheckConstraint("octet_length(root) = 32", name=op.f("ck_checkpoint_root_is_sha256")),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoint"),
        if_not_exists=True,
    )
    op.create_table(
        "log_key",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("key_id", sa.String(8), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("added_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("retired_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.CheckConstraint("octet_length(public) = 32", name=op.f("ck_log_key_public_is_ed25519")),
        sa.PrimaryKeyConstraint("name", "key_id", name="pk_log_key"),
        if_not_exists=True,
    )
