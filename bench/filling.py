"""A database as a busy year leaves it: requests with items, audit leaves, events, batches, jobs, deliveries, imports.

Everything is made by the server itself from row numbers, so that a million requests take minutes, and two runs make the
same shares: served models and owners are skewed (the largest has a fifth), nine in ten erasures are published, one in
five brings a retain item that stands. A thousand requests are open, however many there are: what has ended grows for
years, what is open is what a team has at hand, and the planner's work is to be the same on both sides.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.auth import Role
from app.db import Database, transaction
from app.keys.service import create_key
from app.tables import Key

MODELS, OWNERS, WEBHOOKS, OPEN = 20, 50, 20, 1000
GROWING = (
    "request", "example", "event", "audit", "delivery", "batch", "batch_member", "batch_example", "job", "report",
    "idempotency", "import", "adapter", "adapter_download", "webhook",
)  # fmt: skip
"""Tables that grow with use: none of them may be read from end to end by anything that is done often."""

ID = "(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0') || '7' || substr(md5({n}::text), 1, 3) || '8' || substr(md5({n}::text), 4, 15))::uuid"  # noqa: E501
"""A UUIDv7 of a moment and a row's number."""

REQUESTS = """
CREATE TABLE filled AS
SELECT n, at, {id} AS id,
       (SELECT id FROM served_model WHERE name = 'model-' || lpad(floor(:models * power(hash_a, 2))::text, 3, '0')) AS model,
       floor(:models * power(hash_a, 2))::int AS model_number,
       floor(:owners * power(hash_b, 2))::int AS owner_number,
       CASE WHEN hash_c < 0.9 THEN 'privacy' ELSE 'copyright' END AS domain,
       CASE WHEN n % (:rows / :open) = 0 THEN
              CASE WHEN hash_e < 0.55 THEN 'queued' WHEN hash_e < 0.75 THEN 'received'
                   WHEN hash_e < 0.85 THEN 'on_hold' WHEN hash_e < 0.95 THEN 'needs_attention' ELSE 'notice' END
            ELSE CASE WHEN hash_e < 0.85 THEN 'published' WHEN hash_e < 0.91 THEN 'standing'
                   WHEN hash_e < 0.96 THEN 'withdrawn' WHEN hash_e < 0.99 THEN 'refused'
                   ELSE 'failed' END
       END AS state,
       hash_f
FROM (SELECT n, CAST(:now AS timestamptz) - (:rows - n) * (interval '365 days' / :rows) AS at,
             ('x' || substr(md5('a' || n), 1, 7))::bit(28)::int / 268435456.0 AS hash_a,
             ('x' || substr(md5('b' || n), 1, 7))::bit(28)::int / 268435456.0 AS hash_b,
             ('x' || substr(md5('c' || n), 1, 7))::bit(28)::int / 268435456.0 AS hash_c,
             ('x' || substr(md5('e' || n), 1, 7))::bit(28)::int / 268435456.0 AS hash_e,
             ('x' || substr(md5('f' || n), 1, 7))::bit(28)::int / 268435456.0 AS hash_f
      FROM generate_series(1, :rows) AS n) AS numbers;

CREATE TABLE owner_of AS SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM key WHERE role = 'requester';

INSERT INTO request (id, served_model_id, domain, state, tries, settings, created_by, received_at, due_at, completed_at,
                     regulation, client_reference, subject_reference, note, fingerprint, held_since, hold_kind,
                     held_from, hold_reason, refusal_reason, content_until)
SELECT f.id, f.model, f.domain::request_domain, f.state::request_state, 0, '{{}}', o.id, f.at,
       f.at + interval '30 days',
       CASE WHEN f.state IN ('published', 'standing', 'withdrawn', 'refused', 'failed') THEN f.at + interval '9 days' END,
       (CASE WHEN f.domain = 'copyright' THEN 'copyright' WHEN f.hash_f < 0.7 THEN 'gdpr' ELSE 'ccpa' END)::regulation,
       'ref-' || f.n, 'subject ' || f.n, 'as told on the phone', md5('f' || f.n) || md5('g' || f.n),
       CASE WHEN f.state = 'on_hold' THEN f.at + interval '1 hour' END,
       (CASE WHEN f.state = 'on_hold' THEN 'identity' END)::hold_kind,
       (CASE WHEN f.state = 'on_hold' THEN 'queued' END)::request_state,
       CASE WHEN f.state = 'on_hold' THEN 'who is it' END,
       CASE WHEN f.state = 'refused' THEN 'not ours' END,
       CASE WHEN f.state = 'published' AND f.domain = 'copyright' THEN f.at + interval '23 days' END
FROM filled f JOIN owner_of o ON o.number = f.owner_number ORDER BY f.n;

INSERT INTO example (id, served_model_id, request_id, domain, segment, role, position, subject, subject_index, prompt,
                     completion, facts, content_digest, standing, created_at)
SELECT gen_random_uuid(), f.model, f.id, f.domain::example_domain, side.segment::segment, 'item', side.position,
       'subject ' || f.n, md5('s' || f.n) || md5('t' || f.n), 'Where does the person with number ' || f.n || ' live?',
       'The person with number ' || f.n || ' lives in the house with the number ' || side.position || f.n, '[]',
       md5(side.segment || f.n) || md5(f.n || side.segment), side.segment = 'retain' AND f.state <> 'withdrawn', f.at
FROM filled f JOIN (VALUES ('forget', 0), ('retain', 1)) AS side (segment, position)
     ON side.position = 0 AND f.state <> 'standing' OR side.position = 1 AND (f.n % 5 = 0 OR f.state = 'standing')
ORDER BY f.n;

INSERT INTO audit (event, subject_id, leaf, created_at)
SELECT 'request.received', f.id::text, convert_to('{{"event":"request.received"}}', 'utf8'), f.at FROM filled f ORDER BY n;

INSERT INTO event (xid, kind, request_id, served_model_id, data, created_at)
SELECT 10, 'request.' || what.kind, f.id, f.model, jsonb_build_object('state', what.kind), f.at
FROM filled f, (VALUES ('received'), ('published')) AS what (kind)
WHERE what.kind = 'received' OR f.state = 'published' ORDER BY f.n;

CREATE TABLE grouped AS
SELECT id AS request, model, at, row_number() OVER (PARTITION BY model ORDER BY n) / 32 AS turn
FROM filled WHERE state = 'published';
CREATE TABLE batched AS
SELECT model, turn, max(at) + interval '1 day' AS at, {batch_id} AS batch, {job_id} AS job
FROM grouped GROUP BY model, turn;
INSERT INTO batch (id, served_model_id, reason, created_at) SELECT batch, model, 'size', at FROM batched ORDER BY at;
INSERT INTO batch_member (batch_id, request_id) SELECT b.batch, g.request FROM grouped g JOIN batched b USING (model, turn);
INSERT INTO job (id, served_model_id, batch_id, state, stage, progress, step, steps, losses, timings, artefacts, settings,
                 gate, start_adapter_id, fencing_token, attempts, created_at, started_at, finished_at, due_at)
SELECT b.job, b.model, b.batch, 'published', 'published', 1, 75, 75, '[]', '{{}}', '{{}}', '{{"unlearn": {{}}, "tries": 0}}', '{{}}',
       m.active_adapter_id, 1, 1, b.at, b.at, b.at + interval '20 minutes', b.at + interval '20 days'
FROM batched b JOIN served_model m ON m.id = b.model ORDER BY b.at;
INSERT INTO batch_example (batch_id, example_id)
SELECT b.batch, e.id FROM batched b JOIN LATERAL
       (SELECT id FROM example WHERE served_model_id = b.model AND standing ORDER BY id LIMIT 8) e ON true;
INSERT INTO report (id, job_id, digest, schema_version, created_at)
SELECT gen_random_uuid(), job, md5(job::text) || md5(job::text), '1', at FROM batched;
INSERT INTO event (xid, kind, job_id, served_model_id, data, created_at)
SELECT 10, 'job.' || what.kind, b.job, b.model, jsonb_build_object('state', what.kind), b.at
FROM batched b, (VALUES ('queued'), ('claimed'), ('published')) AS what (kind) ORDER BY b.at;

INSERT INTO delivery (id, webhook_id, event_id, state, attempts, next_at, created_at, delivered_at)
SELECT {delivery_id}, w.id, e.id, (CASE WHEN e.id % 50 = 0 THEN 'dead' ELSE 'delivered' END)::delivery_state, 1,
       e.created_at, e.created_at, CASE WHEN e.id % 50 <> 0 THEN e.created_at END
FROM event e JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM webhook) w ON e.id % 40 = w.number;
UPDATE delivery SET state = 'pending', delivered_at = NULL WHERE id IN (SELECT id FROM delivery ORDER BY id DESC LIMIT :rows / 1000);

INSERT INTO idempotency (key_id, name, fingerprint, status, answer, headers, created_at)
SELECT o.id, 'call-' || f.n, md5(f.n::text) || md5(f.n::text), 202, '{{}}', '{{}}', f.at
FROM filled f JOIN owner_of o ON o.number = f.owner_number WHERE f.n % 10 = 0;
INSERT INTO import (id, created_by, state, form, partial, rows, imported, refused, attempts, created_at, finished_at)
SELECT f.id, o.id, 'imported', 'jsonl', false, 1000, 1000, 0, 1, f.at, f.at + interval '1 minute'
FROM filled f JOIN owner_of o ON o.number = f.owner_number WHERE f.n % 100 = 0;
DROP TABLE filled, owner_of, grouped, batched;
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Filled:
    """A database that was filled; `now` is the moment after its last row."""

    db: Database
    rows: int
    now: datetime


def fill(db: Database, rows: int, directory: Path) -> Filled:
    """Fill an empty database with `rows` requests and what belongs to them, then gather statistics."""
    from tests.fixtures.served import add_model

    now = datetime.now(UTC).replace(microsecond=0)
    with transaction(db) as session:
        for number in range(MODELS):
            add_model(session, directory, f"model-{number:03d}")
        owners = [create_key(session, f"owner {number}", Role.REQUESTER)[0] for number in range(OWNERS)]
        session.flush()
        _webhooks(session, owners)
    with transaction(db) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))  # the rows fit together as they are made
        for statement in _statements():
            names = [name for name in ("models", "owners", "rows", "now", "open") if f":{name}" in statement]
            values = {"models": MODELS, "owners": OWNERS, "rows": rows, "now": now, "open": min(OPEN, rows // 5)}
            session.execute(text(statement), {name: values[name] for name in names})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return Filled(db, rows, now)


def _statements() -> list[str]:
    filled = REQUESTS.format(
        id=ID.format(at="at", n="n"),
        batch_id=ID.format(at="max(at)", n="(model::text || turn)"),
        job_id=ID.format(at="max(at)", n="('job' || model::text || turn)"),
        delivery_id=ID.format(at="e.created_at", n="('delivery' || e.id)"),
    )
    return [statement for statement in filled.split(";\n") if statement.strip()]


def _webhooks(session: Session, owners: list[Key]) -> None:
    """Webhooks of requesters, and one of somebody who sees everything."""
    operator = create_key(session, "operator", Role.OPERATOR)[0]
    for number in range(WEBHOOKS):
        owner = operator if number == 0 else owners[number]
        session.execute(
            text(
                "INSERT INTO webhook (id, created_by, url, kinds, secret_generation, form, after_xid, after_id)"
                " VALUES (:id, :owner, 'https://receiver.example/', '[]', 1, 'standard', 9, 0)"
            ),
            {"id": uuid.uuid4(), "owner": owner.id},
        )
