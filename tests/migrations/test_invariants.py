"""What the database itself refuses, whatever the code does."""
# ruff: noqa: S608  every statement is put together from the constants of this file

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.migrations.rows import fill

LEASED = "lease_owner = 'w', lease_until = now()"
SECOND_JOB = """
    INSERT INTO batch (id, served_model_id, reason)
        SELECT gen_random_uuid(), served_model_id, 'manual' FROM job LIMIT 1;
    INSERT INTO job (id, served_model_id, batch_id, state, stage, progress, step, steps, losses, timings, artefacts,
                     settings, gate, start_adapter_id, fencing_token, attempts)
        SELECT gen_random_uuid(), j.served_model_id, b.id, 'queued', stage, progress, step, steps, losses, timings,
               artefacts, settings, gate, start_adapter_id, 0, 0
        FROM job j, batch b WHERE b.id <> j.batch_id;
"""
ANOTHER_ADAPTER = "INSERT INTO adapter (id, served_model_id, version, name, digest, directory, manifest, state)"
KEPT = "digest, directory, manifest, 'candidate'"
AT_WORK = "uq_job_one_at_work_per_model"
A_BUNDLE = """
    INSERT INTO report (id, job_id, digest, schema_version)
        SELECT gen_random_uuid(), id, repeat('ab', 32), 'grail.report/1' FROM job LIMIT 1;
    INSERT INTO bundle (report_id) SELECT id FROM report
"""
A_CERTIFICATE = """
    INSERT INTO certificate (id, request_id, job_id, digest, schema_version, audit_id, issued_at)
        SELECT gen_random_uuid(), request.id, job.id, repeat('ab', 32), 'grail.certificate/1', 1, now()
        FROM request, job
"""
HASH = "decode(repeat('ab', 32), 'hex')"
A_LEAF = "INSERT INTO log_leaf VALUES"
FIRST_COLUMN = {"audit": "created_at", "log_leaf": "position", "log_node": "level", "checkpoint": "size"}

ILLEGAL = [
    ("UPDATE request SET completed_at = now()", "ck_request_completed_when_final"),
    *(
        (f"UPDATE request SET state = '{state}'", "ck_request_completed_when_final")
        for state in ("published", "standing", "withdrawn", "failed")
    ),
    ("UPDATE request SET state = 'needs_attention', completed_at = now()", "ck_request_completed_when_final"),
    ("UPDATE request SET tries = -1", "ck_request_tries_are_not_negative"),
    ("UPDATE request SET due_at = received_at", "ck_request_due_after_receipt"),
    ("UPDATE request SET served_model_id = gen_random_uuid()", "fk_request_served_model_id_served_model"),
    ("UPDATE request SET created_by = gen_random_uuid()", "fk_request_created_by_key"),
    ("UPDATE job SET state = 'running'", "ck_job_running_means_leased"),
    (f"UPDATE job SET {LEASED}", "ck_job_running_means_leased"),
    (f"UPDATE job SET state = 'evaluated', {LEASED}", "ck_job_running_means_leased"),
    ("UPDATE job SET state = 'running', lease_owner = 'w'", "ck_job_lease_is_whole"),
    ("UPDATE job SET lease_until = now()", "ck_job_lease_is_whole"),
    ("UPDATE job SET progress = 1.01", "ck_job_progress_is_a_share"),
    ("UPDATE job SET progress = -0.01", "ck_job_progress_is_a_share"),
    ("UPDATE job SET progress = 'NaN'", "ck_job_progress_is_a_share"),
    *(
        (f"UPDATE job SET state = '{state}'", "ck_job_finished_when_final")
        for state in ("published", "rejected", "failed", "cancelled")
    ),
    ("UPDATE job SET finished_at = now()", "ck_job_finished_when_final"),
    (f"{SECOND_JOB}; UPDATE job SET state = 'running', {LEASED}", AT_WORK),
    (f"{SECOND_JOB}; UPDATE job SET state = 'evaluated'", AT_WORK),
    (f"{SECOND_JOB}; UPDATE job SET state = 'awaiting_approval'", AT_WORK),
    ("UPDATE example SET role = 'paraphrase'", "ck_example_probes_have_a_parent"),
    ("UPDATE example SET parent_id = id", "ck_example_probes_have_a_parent"),
    ("UPDATE example SET standing = true", "ck_example_only_retain_stands"),
    ("UPDATE example SET request_id = NULL", "ck_example_forget_needs_a_request"),
    ("UPDATE example SET domain = 'general'", "ck_example_general_is_of_no_request"),
    ("UPDATE example SET domain = 'secrets'", "invalid input value for enum example_domain"),
    ("UPDATE request SET domain = 'general'", "invalid input value for enum request_domain"),
    ("UPDATE example SET outcome = 'gone'", "ck_example_outcome_is_known"),
    ("UPDATE example SET completion = '', content_sealed = NULL", "ck_example_content_is_there_or_removed"),
    ("UPDATE example SET content_sealed = '\\x01', completion = NULL, key_id = NULL", "ck_example_sealed_under_a_key"),
    ("UPDATE example SET content_sealed = '\\x01', completion = 'both'", "ck_example_sealed_or_plain"),
    ("UPDATE adapter SET version = 0", "ck_adapter_versions_start_at_one"),
    ("UPDATE adapter SET digest = 'ab'", "ck_adapter_digest_is_sha256"),
    ("UPDATE adapter SET published_at = NULL", "ck_adapter_published_at_is_set"),
    ("DELETE FROM adapter", "fk_job_start_adapter_id_adapter"),
    ("UPDATE served_model SET name = 'Upper'", "ck_served_model_name_is_a_slug"),
    ("UPDATE served_model SET name = E'a\\n'", "ck_served_model_name_is_a_slug"),
    ("UPDATE served_model SET context_tokens = 0", "ck_served_model_context_is_positive"),
    ("UPDATE served_model SET alias_revision = -1", "ck_served_model_revision_is_not_negative"),
    ("UPDATE key SET hash = 'ab'", "ck_key_hash_is_sha256"),
    ("DELETE FROM key", "fk_request_created_by_key"),
    ("INSERT INTO audit (event, leaf) VALUES ('e', '')", "ck_audit_leaf_is_bounded"),
    ("INSERT INTO audit (event, leaf) VALUES ('e', decode(repeat('ab', 8193), 'hex'))", "ck_audit_leaf_is_bounded"),
    ("INSERT INTO audit (id, event, leaf) VALUES (1000000, 'e', '{}')", "cannot insert a non-DEFAULT value"),
    *(
        (statement.format(table), f"rows of {table} are never changed or removed")
        for table in ("audit", "log_leaf", "log_node", "checkpoint")
        for statement in (f"UPDATE {{}} SET {FIRST_COLUMN[table]} = DEFAULT", "DELETE FROM {}", "TRUNCATE {}")
    ),
    (f"{A_LEAF} (0, 1, 'short')", "ck_log_leaf_hash_is_sha256"),
    (f"{A_LEAF} (0, 1, {HASH}), (0, 2, {HASH})", "pk_log_leaf"),
    (f"{A_LEAF} (0, 1, {HASH}), (1, 1, {HASH})", "uq_log_leaf_audit_id"),
    (f"INSERT INTO log_node VALUES (4, 0, {HASH}), (4, 0, {HASH})", "pk_log_node"),
    ("INSERT INTO log_node VALUES (4, 0, 'short')", "ck_log_node_hash_is_sha256"),
    (f"INSERT INTO checkpoint (size, root, note) VALUES (0, {HASH}, 'n')", "ck_checkpoint_size_is_positive"),
    ("INSERT INTO checkpoint (size, root, note) VALUES (1, 'short', 'n')", "ck_checkpoint_root_is_sha256"),
    ("INSERT INTO log_key VALUES ('n', 'abcdef01', 'short')", "ck_log_key_public_is_ed25519"),
    ("INSERT INTO bundle (report_id) VALUES (gen_random_uuid())", "fk_bundle_report_id_report"),
    (f"{A_BUNDLE}; UPDATE bundle SET sealed_at = now(), seal = 's'", "ck_bundle_sealed_is_whole"),
    (f"{A_BUNDLE}; UPDATE bundle SET assembled_at = now(), digest = 'd', log_size = 1, checkpoint = 'c', proofs = 'p'",
     "ck_bundle_assembled_is_whole"),
    (f"{A_BUNDLE}; INSERT INTO bundle (report_id) SELECT report_id FROM bundle", "pk_bundle"),
    (f"{A_CERTIFICATE}; {A_CERTIFICATE}", "uq_certificate_request_id"),
    (f"{A_CERTIFICATE}; UPDATE certificate SET request_id = gen_random_uuid()", "fk_certificate_request_id_request"),
    (f"{A_CERTIFICATE}; UPDATE certificate SET job_id = gen_random_uuid()", "fk_certificate_job_id_job"),
    ("INSERT INTO attestation (adapter_id, name, body) VALUES (gen_random_uuid(), 'n', 'b')",
     "fk_attestation_adapter_id_adapter"),
    ("UPDATE request SET state = 'lost'", "invalid input value for enum request_state"),
    ("UPDATE job SET state = 'lost'", "invalid input value for enum job_state"),
    ("UPDATE request SET domain = 'secrets'", "invalid input value for enum request_domain"),
    ("INSERT INTO batch_member SELECT * FROM batch_member", "pk_batch_member"),
    (
        f"{ANOTHER_ADAPTER} SELECT gen_random_uuid(), served_model_id, 2, name, {KEPT} FROM adapter",
        "uq_adapter_name",
    ),
    (
        f"{ANOTHER_ADAPTER} SELECT gen_random_uuid(), served_model_id, 1, 'another', {KEPT} FROM adapter",
        "uq_adapter_served_model_id_version",
    ),
    ("UPDATE served_model SET active_adapter_id = gen_random_uuid(); SET CONSTRAINTS ALL IMMEDIATE",
     "fk_served_model_active_adapter_id_adapter"),
]  # fmt: skip
LEGAL = [
    f"UPDATE job SET state = 'running', {LEASED}",
    "UPDATE job SET state = 'awaiting_approval'",
    "UPDATE job SET state = 'failed', finished_at = now()",
    f"{SECOND_JOB}; UPDATE job SET state = 'evaluated' WHERE id = (SELECT min(id::text)::uuid FROM job)",
    f"{SECOND_JOB}; UPDATE job SET state = 'failed', finished_at = now()",
    "UPDATE request SET state = 'published', completed_at = now()",
    "UPDATE request SET state = 'needs_attention'",
    "UPDATE example SET standing = true WHERE segment = 'retain'",
    "UPDATE example SET domain = 'general', request_id = NULL WHERE segment = 'retain'",
    "UPDATE example SET completion = NULL, content_sealed = NULL, removed_at = now()",
    "UPDATE adapter SET state = 'superseded'",
    "DELETE FROM audit_pending",
    f"{A_BUNDLE}; UPDATE bundle SET sealed_at = now(), contents_digest = 'd', statement = 's', seal = 's', "
    "audit_ids = '{1,2}', assembled_at = now(), digest = 'd', log_size = 1, checkpoint = 'c', proofs = 'p'",
    f"{A_LEAF} (0, 1, {HASH}), (1, 2, {HASH})",
    A_CERTIFICATE,
]


@pytest.fixture(scope="module")
def filled(services, databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database with rows; every test undoes what it did."""
    name = databases.take()
    url = services.postgres.url(name)
    fill(url, tmp_path_factory.mktemp("invariants"))
    yield url
    databases.give_back(name)


@pytest.fixture
def connection(filled: str) -> Iterator[Connection]:
    engine = create_engine(filled)
    with engine.connect() as opened:
        yield opened
        opened.rollback()
    engine.dispose()


@pytest.mark.parametrize(("statement", "constraint"), ILLEGAL)
def test_illegal_rows_are_refused(connection: Connection, statement: str, constraint: str) -> None:
    with pytest.raises(DBAPIError, match=constraint) as caught:
        connection.execute(text(statement))
    if constraint.startswith(("ck_", "fk_", "uq_", "pk_")):
        assert isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize("statement", LEGAL)
def test_their_legal_neighbours_are_taken(connection: Connection, statement: str) -> None:
    assert connection.execute(text(statement)).rowcount >= 1
