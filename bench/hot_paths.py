"""What the service asks its database often, each by the function that does it: lists, filters, claims, planning,
sweeps, feeds, webhooks, expiry. `explained` notes the plan of every statement that one of them sends."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from filling import Filled
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from app.auth import Principal, Role
from app.batches import repository as batch_rows
from app.batches import service as batches
from app.config import load_settings
from app.envelope.columns import codec_of
from app.events import repository as event_rows
from app.events import service as events
from app.events.positions import START, Position
from app.events.repository import EventFilter
from app.idempotency import service as idempotency
from app.imports import repository as import_rows
from app.imports import service as imports
from app.jobs import repository as job_rows
from app.jobs import service as jobs
from app.lifecycle import JobState, RequestState
from app.opendsr import repository as opendsr
from app.reports import repository as report_rows
from app.requests import blanking_repository, bulk, intake, quick, repository
from app.requests import intake_repository as intake_rows
from app.requests import service as requests
from app.requests.cursors import cursor_of
from app.requests.known import known_model
from app.requests.schemas import RequestCreate, RequestFilter
from app.retention import repository as retention
from app.served_models import service as served_models
from app.tables import DeliveryState, Regulation, RequestDomain, RequestKind
from app.telemetry import repository as telemetry_rows
from app.telemetry import snapshot
from app.webhooks import fan
from app.webhooks import repository as webhook_rows
from app.workers import service as workers
from tests.fixtures.served import question

Path = Callable[[Session], Any]
LIMIT = 50


@dataclass(frozen=True, slots=True)
class Known:
    """What the paths are walked with: somebody who sees all, an owner of many and one of few, and ids in the middle."""

    officer: Principal
    owner: Principal
    request_id: uuid.UUID
    own_request_id: uuid.UUID
    job_id: uuid.UUID
    webhook_id: uuid.UUID
    model_id: uuid.UUID
    digests: tuple[str, ...] = field(repr=False)


def known(filled: Filled) -> Known:
    """Of a filled database."""
    with filled.db.engine.connect() as connection:

        def one(statement: str, **values: Any) -> Any:
            return connection.execute(text(statement), values).scalar_one()

        model_id = one("SELECT id FROM served_model WHERE name = 'model-003'")
        owner = one("SELECT id FROM key WHERE name = 'owner 9'")
        middle = {"n": f"ref-{filled.rows // 2}"}
        own = one("SELECT id FROM request WHERE created_by = :key ORDER BY id DESC OFFSET 20 LIMIT 1", key=owner)
        return Known(
            Principal(one("SELECT id FROM key WHERE name = 'operator'"), "officer", Role.OFFICER),
            Principal(owner, "owner 9", Role.REQUESTER),
            one("SELECT id FROM request WHERE client_reference = :n", **middle), own,
            one("SELECT id FROM job ORDER BY id OFFSET (SELECT count(*) / 2 FROM job) LIMIT 1"),
            one("SELECT id FROM webhook WHERE created_by = :key", key=owner), model_id,
            tuple(connection.scalars(text("SELECT content_digest FROM example LIMIT 20"))),
        )  # fmt: skip


def lists(filled: Filled, who: Known) -> dict[str, Path]:
    """Lists and filters of requests, and one request: what is timed, too."""
    now, everything = filled.now, RequestFilter()
    wanted: dict[str, tuple[RequestFilter, Principal]] = {
        "list": (everything, who.officer),
        **{f"state {state}": (RequestFilter(state=state), who.officer) for state in (
            RequestState.QUEUED, RequestState.PUBLISHED, RequestState.NOTICE, RequestState.NEEDS_ATTENTION,
            RequestState.RUNNING,
        )},
        **{f"domain {domain}": (RequestFilter(domain=domain), who.officer) for domain in RequestDomain},
        **{f"regulation {law}": (RequestFilter(regulation=law), who.officer)
           for law in (Regulation.GDPR, Regulation.CCPA, Regulation.NONE)},
        "kind reinstate": (RequestFilter(kind=RequestKind.REINSTATE), who.officer),
        "client_reference": (RequestFilter(client_reference=f"ref-{filled.rows // 3}"), who.officer),
        "served_model": (RequestFilter(served_model="model-003"), who.officer),
        "served_model, state": (RequestFilter(served_model="model-003", state=RequestState.QUEUED), who.officer),
        "served_model, domain": (
            RequestFilter(served_model="model-003", domain=RequestDomain.COPYRIGHT), who.officer),
        "received between": (RequestFilter(
            received_after=now - timedelta(days=200), received_before=now - timedelta(days=199)), who.officer),
        "overdue": (RequestFilter(due_before=now), who.officer),
        "due within 7 days": (RequestFilter(due_before=now + timedelta(days=7)), who.officer),
        "overdue, served_model": (RequestFilter(due_before=now, served_model="model-019"), who.officer),
        "owner": (everything, who.owner),
        "owner, state": (RequestFilter(state=RequestState.NEEDS_ATTENTION), who.owner),
        "owner, overdue": (RequestFilter(due_before=now), who.owner),
        "owner, client_reference": (RequestFilter(client_reference=f"ref-{filled.rows // 3}"), who.owner),
        "owner, served_model": (RequestFilter(served_model="model-003"), who.owner),
    }  # fmt: skip
    paths = {name: _browsing(asked, by, filled, None) for name, (asked, by) in wanted.items()}
    return {
        **paths,
        "deep page by cursor": _browsing(everything, who.officer, filled, who.request_id),
        "owner, deep page": _browsing(everything, who.owner, filled, who.request_id),
        "status by id": lambda s: requests.read(s, who.request_id, who.officer, now, with_items=False),
        "status by id, owner": lambda s: requests.read(s, who.own_request_id, who.owner, now, with_items=True),
        "receive eight at once": lambda s: receive(s, filled, who),
    }


def receive(session: Session, filled: Filled, who: Known) -> Any:
    """What is stored of requests that come together. Its statements stand inside of a function: see `inside`."""
    models, prepared = quick.KnownModels(), []
    for number in range(8):
        asked = RequestCreate.model_validate(
            {"served_model": "model-003", "domain": "privacy", "forget": [question(10**6 + number)]}
        )
        found = quick.prepare(filled.db, models, asked, who.owner, filled.now, 30)
        assert found is not None
        prepared.append(found)
    connection, rows = session.connection().connection.driver_connection, [one.rows for _, one in prepared]
    line, askers = prepared[0][0].line, [one.asker for _, one in prepared]
    assert len(intake_rows.receive(connection, *line, askers, intake.as_json(*rows))) == 8  # type: ignore[arg-type]


def _browsing(wanted: RequestFilter, who: Principal, filled: Filled, after: uuid.UUID | None) -> Path:
    cursor = None if after is None else cursor_of(after)
    return lambda s: requests.browse(s, dataclasses.replace(wanted), who, filled.now, cursor=cursor, limit=LIMIT)


def planning(filled: Filled, who: Known) -> dict[str, Path]:
    """What the planner does: of all served models, and of one."""
    now = filled.now
    return {
        "plan_batches": lambda s: [batches.plan_model(s, id_, now) for id_ in batch_rows.models_with_pending(s)],
        "preview": lambda s: batches.preview(s, "model-003", now),
        "run now": lambda s: batches.run_now(s, "model-003", who.officer, now, include_attention=True),
    }


def others(filled: Filled, who: Known) -> dict[str, Path]:
    """Everything else that is done often."""
    now = filled.now
    asked = RequestCreate.model_validate(
        {"served_model": "model-003", "domain": "privacy", "forget": [question(1)], "retain": [question(2)]}
    )
    below, mine, all_ = 2**40, EventFilter(owner=who.owner.key_id), EventFilter()
    behind = Position(10, filled.rows)
    return {
        "submit": lambda s: requests.submit(s, asked, who.owner, now, due_days=30),
        "store in bulk": lambda s: bulk.add(s, [requests.prepare(
            asked, known_model(s, "model-003"), who.owner, now, codec_of(s), due_days=30)], who.owner.key_id, now),
        "withdraw": lambda s: requests.withdraw(s, _pending_of(s), who.officer, now),
        "forgotten_digests": lambda s: repository.forgotten_digests(s, who.model_id, who.digests),
        "duplicates": lambda s: repository.duplicates(s, who.request_id, RequestState.COUNTERED),
        "opendsr": lambda s: opendsr.named(s, who.owner.key_id, "ref-17"),
        "erasures in force": lambda s: s.execute(
            batch_rows.erased_rows(who.model_id, RequestDomain.PRIVACY, [who.request_id], 64)).all(),
        "jobs": lambda s: _jobs(s, who.officer, filled),
        "jobs of an owner": lambda s: _jobs(s, who.owner, filled),
        "jobs in a state": lambda s: _jobs(s, who.officer, filled, state=JobState.QUEUED),
        "jobs of a model": lambda s: _jobs(s, who.officer, filled, served_model="model-003"),
        "job by id": lambda s: jobs.read(s, who.job_id, who.officer, now),
        "claimable": lambda s: jobs.claimable(s, now, 2**40),
        "members": lambda s: job_rows.members(s, job_rows.locked(s, who.job_id)),  # type: ignore[arg-type]
        "sweep": lambda s: jobs.sweep(s, now),
        "report": lambda s: report_rows.of_job(s, who.job_id),
        "events, from the start": lambda s: events.page(s, all_, START, LIMIT),
        "events, newest": lambda s: events.page(s, all_, events.head(s), LIMIT),
        "events of an owner, from the start": lambda s: events.page(s, mine, START, LIMIT),
        "events of an owner, middle": lambda s: events.page(s, mine, behind, LIMIT),
        "events of an owner, newest": lambda s: events.page(s, mine, events.head(s), LIMIT),
        "events of a kind": lambda s: events.page(s, EventFilter(kinds=("job.failed",)), START, LIMIT),
        "events of a model": lambda s: events.page(s, EventFilter(served_model="model-019"), START, LIMIT),
        "events of a request": lambda s: events.page(s, EventFilter(request_id=who.request_id), START, LIMIT),
        "events of a job": lambda s: events.page(s, EventFilter(job_id=who.job_id), START, LIMIT),
        "news": lambda s: event_rows.touched(s, events.head(s), below=below),
        "restored": event_rows.last_restored,
        "remove events": lambda s: retention.remove_events(s, now - timedelta(days=90), 2000),
        "remove deliveries": lambda s: retention.remove_deliveries(s, now - timedelta(days=30), 2000),
        "remove faults": lambda s: retention.forget_faults(s, now - timedelta(days=30), now, 2000),
        "blank works": lambda s: blanking_repository.over(s, now, 20),
        "place of the slowest webhook": webhook_rows.slowest,
        "fan out": lambda s: fan.fan_out(s, now),
        "webhook claim": lambda s: webhook_rows.due(s, now, busy=[], per_webhook=4, limit=100),
        "deliveries": lambda s: webhook_rows.deliveries(s, who.webhook_id, state=None, before=None, limit=LIMIT),
        "dead deliveries": lambda s: webhook_rows.deliveries(
            s, who.webhook_id, state=DeliveryState.DEAD, before=None, limit=LIMIT),
        "open callbacks": lambda s: webhook_rows.open_callbacks(s, who.owner.key_id),
        "any pending": lambda s: webhook_rows.any_pending(s, who.webhook_id),
        "idempotency expiry": lambda s: idempotency.purge(s, now),
        "imports": lambda s: imports.browse(s, who.officer, cursor=None, limit=LIMIT),
        "imports of an owner": lambda s: imports.browse(s, who.owner, cursor=None, limit=LIMIT),
        "open imports": import_rows.open_imports,
        "imports at work": lambda s: import_rows.at_work(s, now),
        "in attention": lambda s: batch_rows.in_attention(s, who.model_id, 500),
    }  # fmt: skip


def scraping(filled: Filled) -> dict[str, Path]:
    """What a scrape of the metrics, `/readyz` and `grail doctor` ask."""
    now, settings = filled.now, load_settings()
    return {
        "scrape": lambda s: snapshot.read(s, now, settings),
        "time of a scrape": lambda s: telemetry_rows.limit_time(s, 5.0),
        "doctor's workers": lambda s: workers.memories(s, now),
        "doctor's breakers": lambda s: served_models.left_alone(s, now),
        "doctor's files": served_models.without_files,
    }


def _pending_of(session: Session) -> uuid.UUID:
    return session.execute(text("SELECT id FROM request WHERE state = 'queued' LIMIT 1")).scalar_one()


def _jobs(session: Session, who: Principal, filled: Filled, **narrowed: Any) -> Any:
    wanted = {"state": None, "served_model": None, **narrowed}
    return jobs.browse(session, who, filled.now, cursor=None, limit=LIMIT, **wanted)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a statement is carried out: what it costs by the planner's reckoning, which tables it reads whole, and of
    which it walks an index from end to end, those of a part of a table aside."""

    statement: str
    cost: float
    whole: frozenset[str]
    walked: frozenset[str]
    nodes: str


@contextmanager
def explained(connection: Connection, only: Callable[[str], bool] = lambda _: True) -> Iterator[list[Plan]]:
    """Plans of all statements that are sent meanwhile, but for those of this module."""
    plans: list[Plan] = []
    tables = {row[0]: row[1] for row in connection.execute(text(OF_ALL))}
    cursor = connection.connection.cursor()

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if many or not re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)", statement) or not only(statement):
            return
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        row = cursor.fetchone()
        tree = row[0] if isinstance(row[0], list) else json.loads(row[0])
        plans.append(_plan(tree[0], tables, statement))

    event.listen(connection.engine, "before_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(connection.engine, "before_cursor_execute", note)
        cursor.close()


@contextmanager
def inside(session: Session) -> Iterator[list[Plan]]:
    """Plans of the statements of functions in the database that are called meanwhile, by its module auto_explain."""
    plans: list[Plan] = []
    connection = session.connection()
    tables = {row[0]: row[1] for row in connection.execute(text(OF_ALL))}
    for said in AUTO_EXPLAIN:
        connection.execute(text(said))

    def note(told: psycopg.errors.Diagnostic) -> None:
        _, found, plan = (told.message_primary or "").partition("plan:\n")
        if found:
            plans.append(_plan(json.loads(plan), tables))

    driver = connection.connection.driver_connection
    driver.add_notice_handler(note)
    try:
        yield plans
    finally:
        driver.remove_notice_handler(note)


AUTO_EXPLAIN = (
    "LOAD 'auto_explain'", "SET LOCAL auto_explain.log_min_duration = 0", "SET LOCAL auto_explain.log_format = json",
    "SET LOCAL auto_explain.log_nested_statements = on", "SET LOCAL client_min_messages = log",
)  # fmt: skip


def _plan(tree: Mapping[str, Any], tables: Mapping[str, str], statement: str = "") -> Plan:
    nodes = list(_nodes(tree["Plan"]))
    whole = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    walked = frozenset(tables[index] for index in _walked(tree["Plan"]) if index in tables)
    shown = "; ".join(f"{n['Node Type']} {n.get('Index Name', n.get('Relation Name', ''))}" for n in nodes)
    statement = " ".join((statement or tree["Query Text"]).split())
    return Plan(statement, tree["Plan"]["Total Cost"], frozenset(whole), walked, shown)


def _walked(plan: Mapping[str, Any], limited: bool = False) -> Iterator[str]:
    """Indexes that are read without a condition, by something that wants all of it."""
    limited = (limited or plan["Node Type"] == "Limit") and plan["Node Type"] not in TAKES_ALL
    if plan["Node Type"] in INDEX_SCANS and "Index Cond" not in plan and not limited:
        yield plan["Index Name"]
    for below in plan.get("Plans", []):
        yield from _walked(below, limited)


OF_ALL = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid WHERE i.indpred IS NULL AND c.relnamespace = 'public'::regnamespace
"""
TAKES_ALL = {"Sort", "Aggregate", "Hash", "WindowAgg"}
"""Nodes that read all that is below before they give the first row."""
INDEX_SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)
