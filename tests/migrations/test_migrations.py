"""The migrated schema is that of the tables, and every migration can be undone on a database with rows."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from app import schema
from app.audit_log.sequencing import number_all
from app.auth import Role as KeyRole
from app.bundles import repository as bundles
from app.certificates import repository as certificates
from app.db import Database, transaction
from app.lifecycle import JobState, RequestState
from app.tables import (
    AdapterState,
    Base,
    BatchReason,
    DeliveryState,
    ExampleDomain,
    HoldKind,
    ImportForm,
    ImportState,
    JobKind,
    Regulation,
    Request,
    RequestDomain,
    RequestKind,
)
from grail.types import Role, Segment
from tests.migrations.rows import fill, fill_general

ENUMS: dict[str, type[StrEnum]] = {
    "adapter_state": AdapterState,
    "batch_reason": BatchReason,
    "delivery_state": DeliveryState,
    "example_domain": ExampleDomain,
    "example_role": Role,
    "hold_kind": HoldKind,
    "import_form": ImportForm,
    "import_state": ImportState,
    "job_kind": JobKind,
    "job_state": JobState,
    "key_role": KeyRole,
    "regulation": Regulation,
    "request_domain": RequestDomain,
    "request_kind": RequestKind,
    "request_state": RequestState,
    "segment": Segment,
}
COLUMNS = """
    SELECT table_name, column_name, data_type, udt_name, character_maximum_length, is_nullable, column_default,
           is_identity
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), condeferrable, condeferred
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2
"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
LABELS = """
    SELECT typname, enumlabel FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid ORDER BY typname, enumsortorder
"""
FUNCTIONS = """
    SELECT oid::regprocedure::text, md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1
"""
OURS_ALONE = {"alembic_version", "audit_from_0", "audit_beyond"}
"""Tables that no class stands for: parts of `audit`."""
QUERIES = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES, "labels": LABELS}


def described(url: str) -> dict[str, list[Any]]:
    """Everything that makes up a schema, as Postgres itself says it."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            name: [tuple(row) for row in connection.execute(text(query)) if row[0] not in OURS_ALONE]
            for name, query in QUERIES.items()
        }
    engine.dispose()
    return found


def test_the_migrated_schema_is_that_of_the_tables(database_url: str, empty_url: str) -> None:
    engine = create_engine(empty_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    migrated, declared = described(database_url), described(empty_url)
    for part, rows in declared.items():
        assert migrated[part] == rows, part
    assert len(declared["constraints"]) > 40  # the comparison looks at something


def test_alembic_finds_nothing_to_migrate(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={
            "compare_type": True, "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in OURS_ALONE,
        })
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_labels_of_the_database_are_the_values_of_the_code(database_url: str) -> None:
    found: dict[str, list[str]] = {}
    for name, label in described(database_url)["labels"]:
        found.setdefault(name, []).append(label)
    assert found == {name: [member.value for member in kind] for name, kind in ENUMS.items()}


def test_every_time_is_with_time_zone(database_url: str) -> None:
    kinds = {row[2] for row in described(database_url)["columns"] if row[1].endswith(("_at", "_until"))}
    assert kinds == {"timestamp with time zone"}


def test_there_is_one_line_of_migrations_and_the_code_knows_its_end(database_url: str) -> None:
    script = ScriptDirectory.from_config(schema.configuration(""))
    assert script.get_heads() == [schema.head()]
    assert schema.current(database_url) == schema.head()
    for revision in script.walk_revisions():
        assert Path(revision.path).name[:4].isdigit(), "named by its date"


def test_down_and_up_again_on_a_database_with_rows(database_url: str, empty_url: str, tmp_path: Path) -> None:
    before, functions = described(database_url), rows_of(database_url, FUNCTIONS)
    assert len(functions) == 10
    fill(database_url, tmp_path)
    schema.downgrade(database_url)
    assert rows_of(database_url, FUNCTIONS) == []
    assert schema.current(database_url) is None
    assert described(database_url) == described(empty_url) | {"labels": []}
    schema.upgrade(database_url)
    assert described(database_url) == before
    assert rows_of(database_url, FUNCTIONS) == functions
    fill(database_url, tmp_path)


OF_BEFORE = """
    INSERT INTO request (
        id, served_model_id, domain, state, tries, settings, created_by, received_at, due_at, kind, regulation,
        completed_at, refusal_reason
    )
    SELECT gen_random_uuid(), served_model_id, '{domain}', '{state}', 0, '{{}}', created_by, received_at, due_at, kind,
        regulation, CASE '{state}' WHEN 'queued' THEN NULL ELSE received_at END, '-'
    FROM request, generate_series(1, {count}) LIMIT {count}
"""
ENDED = {("privacy", "published"): 90, ("privacy", "withdrawn"): 30, ("copyright", "refused"): 30}
GOES_ON = [("copyright", "published"), ("privacy", "queued"), ("privacy", "standing")]


def test_texts_of_requests_that_ended_before_there_were_days_get_theirs(database_url: str, tmp_path: Path) -> None:
    """More rows than one transaction changes, so that it goes on behind the first ones."""
    fill(database_url, tmp_path)
    schema.downgrade(database_url, "0014")
    db = Database(database_url)
    with transaction(db) as session:
        for domain, state in [*ENDED, *GOES_ON]:
            count = 5003 if state == "withdrawn" else 2
            session.execute(text(OF_BEFORE.format(domain=domain, state=state, count=count)))
    db.dispose()
    schema.upgrade(database_url)
    days = "round(extract(epoch FROM content_until - now()) / 86400)::int"
    found = rows_of(database_url, f"SELECT domain::text, state::text, {days}, count(*) FROM request "  # noqa: S608
                    "WHERE content_until IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 2")  # fmt: skip
    assert found == [
        ("privacy", "published", 90, 2), ("copyright", "refused", 30, 2), ("privacy", "withdrawn", 30, 5003),
    ]  # fmt: skip
    schema.downgrade(database_url, "0014")
    assert rows_of(database_url, "SELECT 1 FROM request WHERE content_until IS NOT NULL") == []


def rows_of(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What one statement finds."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


def test_general_examples_come_with_their_migration_and_leave_with_it(database_url: str, tmp_path: Path) -> None:
    """Below it there is no place for them: they go, with their probes and the batches' notes of them, and no more."""
    fill(database_url, tmp_path)
    fill_general(database_url)
    kept = {"privacy": 2, "general": 2}
    assert counted(database_url, "domain::text", "example") == kept
    schema.downgrade(database_url, "0002")
    assert counted(database_url, "domain::text", "example") == kept
    schema.downgrade(database_url, "0001")
    assert counted(database_url, "domain::text", "example") == {"privacy": 2}
    assert counted(database_url, "1", "batch_example") == {}
    schema.upgrade(database_url)
    assert counted(database_url, "domain::text", "example") == {"privacy": 2}


def counted(url: str, column: str, table: str) -> dict[Any, int]:
    """How many rows there are of each value."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {column}, count(*) FROM {table} GROUP BY 1"))  # noqa: S608  constants
        found = {row[0]: row[1] for row in rows}
    engine.dispose()
    return found


def test_upgrading_what_is_up_to_date_changes_nothing(database_url: str, tmp_path: Path) -> None:
    fill(database_url, tmp_path)
    before = described(database_url)
    schema.upgrade(database_url)
    assert described(database_url) == before
    db = Database(database_url)
    with db.session_factory() as session:
        assert session.query(Request).count() == 1
    db.dispose()


LEAVES = "INSERT INTO audit (event, leaf) SELECT 'thing.changed', n::text::bytea FROM generate_series({}) n"


def test_leaves_of_before_wait_for_numbers_and_lie_in_the_first_part(database_url: str) -> None:
    """More than one transaction queues; begun again it queues none twice; the way back keeps them all."""
    schema.downgrade(database_url, "0016")
    db = Database(database_url)
    with transaction(db) as session:
        session.execute(text(LEAVES.format("10, 20012")))
    for _ in range(2):
        schema.upgrade(database_url, "0017")
        assert rows_of(database_url, "SELECT count(*), max(audit_id) FROM audit_pending") == [(20003, 20003)]
        with transaction(db) as session:
            session.execute(text("UPDATE alembic_version SET version_num = '0016'"))
    schema.upgrade(database_url)
    assert number_all(db) == 20003
    with transaction(db) as session:
        session.execute(text(LEAVES.format("31, 32")))
    parts = "SELECT tableoid::regclass::text, count(*), max(id) FROM audit GROUP BY 1"
    assert rows_of(database_url, parts) == [("audit_from_0", 20005, 20005)]
    assert number_all(db) == 2
    same = "SELECT md5(string_agg(id || convert_from(leaf, 'UTF8'), ',' ORDER BY id)) FROM audit"
    before = rows_of(database_url, same)
    schema.downgrade(database_url, "0016")
    assert rows_of(database_url, same) == before
    with transaction(db) as session:
        session.execute(text(LEAVES.format("33, 33")))
    assert rows_of(database_url, "SELECT max(id) FROM audit") == [(20006,)]
    db.dispose()


def test_going_back_gathers_all_parts_also_where_the_first_has_expired(database_url: str) -> None:
    db = Database(database_url)
    with transaction(db) as session:
        session.execute(text("SELECT setval('audit_id_seq', 3000000)"))
        session.execute(text(LEAVES.format("10, 12")))
        session.execute(text("DROP TABLE audit_from_0"))
    db.dispose()
    before = rows_of(database_url, "SELECT id, leaf FROM audit ORDER BY id")
    schema.downgrade(database_url, "0016")
    assert rows_of(database_url, "SELECT id, leaf FROM audit ORDER BY id") == before
    schema.upgrade(database_url)
    assert rows_of(database_url, "SELECT id, leaf FROM audit ORDER BY id") == before
    assert rows_of(database_url, "SELECT count(*) FROM audit_pending") == [(3,)]


def test_reports_from_before_are_owed_a_bundle_and_a_broken_upgrade_is_begun_again(
    database_url: str, tmp_path: Path
) -> None:
    fill(database_url, tmp_path)
    db = Database(database_url)
    with transaction(db) as session:
        session.execute(text("UPDATE job SET state = 'failed', finished_at = now()"))
        session.execute(
            text(
                "INSERT INTO report (id, job_id, digest, schema_version) "
                "SELECT gen_random_uuid(), id, repeat('ab', 32), 'grail.report/1' FROM job"
            )
        )
    before = described(database_url)
    schema.downgrade(database_url, "0019")
    for _ in range(2):
        schema.upgrade(database_url)
        assert described(database_url) == before
        schema.downgrade(database_url, "0020")
        with transaction(db) as session:
            session.execute(text("UPDATE alembic_version SET version_num = '0019'"))
            session.execute(text("DROP INDEX ix_report_not_bundled"))
    schema.upgrade(database_url)
    with db.session_factory() as session:
        assert len(bundles.owed(session, datetime.now(UTC), 10)) == 1
    db.dispose()


def test_erasures_from_before_are_owed_a_certificate_and_a_broken_upgrade_is_begun_again(
    database_url: str, tmp_path: Path
) -> None:
    fill(database_url, tmp_path)
    db = Database(database_url)
    with transaction(db) as session:
        session.execute(text("UPDATE job SET state = 'published', finished_at = now()"))
        session.execute(
            text(
                "UPDATE request SET state = 'published', completed_at = now(), "
                "outcome = jsonb_build_object('job_id', (SELECT id FROM job))"
            )
        )
        session.execute(
            text(
                "INSERT INTO report (id, job_id, digest, schema_version) "
                "SELECT gen_random_uuid(), id, repeat('ab', 32), 'grail.report/1' FROM job"
            )
        )
    before = described(database_url)
    for made in ("ix_report_not_certified", "ix_checkpoint_size_id"):
        schema.downgrade(database_url, "0021")
        schema.upgrade(database_url)
        assert described(database_url) == before
        with transaction(db) as session:
            session.execute(text("UPDATE alembic_version SET version_num = '0021'"))
            session.execute(text(f"DROP INDEX {made}"))
        schema.upgrade(database_url)
        assert described(database_url) == before
    with db.session_factory() as session:
        (report_id,) = certificates.owed(session, datetime.now(UTC), 10)
        _, job = certificates.report_and_job(session, report_id)
        assert len(certificates.uncertified(session, job, 10)) == 1
    db.dispose()
