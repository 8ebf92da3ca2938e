"""What the rows say to `grail doctor`: who computes, what is late, what was given up, what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.audit_log import service as audit_log
from app.bundles import service as bundles
from app.certificates import service as certificates
from app.config import Settings, load_settings
from app.db import Database
from app.served_models import service as served_models
from app.telemetry.families import Snapshot
from app.telemetry.snapshot import read
from app.workers import service as workers
from cli.findings import UNREAD, Finding, State

MOST_WAITING = 50_000
"""Leaves without a number, which are given some thousand a second."""
LATE_SECONDS = 3600.0
"""Webhook messages that should have been sent so long ago: the control worker or beat is away."""


def of_rows(url: str) -> Iterator[Finding]:
    """On a database that answers and has the newest schema."""
    db, now = Database(url, pool_size=1, application="grail doctor"), datetime.now(UTC)
    try:
        with db.session_factory() as session:
            found = read(session, now, load_settings())
            yield _workers(session, now)
            yield from _models(session, now)
            yield _kept(load_settings())
            yield from _log(session, now)
            yield from _bundles(session)
        yield from _requests(found)
        yield from _webhooks(found)
    except ValidationError:
        yield Finding("rows", State.NOTE, UNREAD)
    except SQLAlchemyError as error:
        yield Finding("rows", State.WRONG, f"could not be read ({type(error).__name__}): try again, look at its log")
    finally:
        db.dispose()


def _workers(session: Session, now: datetime) -> Finding:
    memories = workers.memories(session, now)
    if memories:
        largest = f"{max(memories) / 1e9:.0f} GB"
        return Finding("workers", State.OK, f"{len(memories)} for jobs, the largest with {largest}")
    return Finding("workers", State.NOTE, "none for jobs was seen lately: `grail worker gpu` starts one")


def _log(session: Session, now: datetime) -> Iterator[Finding]:
    """The audit log is numbered and signed, where this process can tell: the key may be the control worker's alone."""
    state, wrong = audit_log.state(session), audit_log.unsigned(session, load_settings(), now)
    signed = "not signed yet" if state.checkpoint_size is None else f"{state.checkpoint_size} of them signed"
    if wrong:
        yield Finding("audit log", State.WRONG, wrong)
    elif state.waiting > MOST_WAITING:
        text = f"{state.waiting} leaves wait for a number: is `grail worker control` there, and one beat?"
        yield Finding("audit log", State.WRONG, text)
    else:
        yield Finding("audit log", State.OK, f"{state.size} leaves, {signed}, {state.waiting} wait")
    if state.checkpoint_size is not None and audit_log.is_unsafe(session):
        text = "is signed with a development key, with which anybody can sign: set GRAIL_SIGNING_KEY_FILE"
        yield Finding("audit log", State.NOTE, text)


def _bundles(session: Session) -> Iterator[Finding]:
    """Auditors get what they are owed."""
    waits = bundles.waiting(session)
    yield Finding("bundles", State.WRONG if waits else State.OK, waits or "every concluded report that can be has one")
    late = certificates.waiting(session)
    yield Finding("certificates", State.WRONG if late else State.OK, late or "every erasure that is done has one")
    if bundles.unsigned_versions(session):
        text = "some have no model.sig: set GRAIL_MODEL_SIGNING_KEY_FILE for the control worker, see docs/operations.md"
        yield Finding("versions", State.NOTE, text)


def _kept(settings: Settings) -> Finding:
    days = {
        "events": settings.keep_events_days, "deliveries": settings.keep_deliveries_days,
        "answers": settings.keep_answers_days, "faults of imports": settings.keep_faults_days,
    }  # fmt: skip
    kept = ", ".join(f"{name} for {count:g} days" for name, count in days.items())
    return Finding("kept", State.OK, f"{kept} (GRAIL_KEEP_..._DAYS)")


def _models(session: Session, now: datetime) -> Iterator[Finding]:
    for name, reason in served_models.left_alone(session, now):
        text = f"the breaker of {name} is open: {reason.get('title', 'its jobs fail')}. {reason.get('mend', '')}"
        yield Finding("breaker", State.WRONG, f"{text} Then: `grail models close-breaker {name}`")
    missing, registered = served_models.without_files(session)
    if missing:
        text = f"files of {', '.join(missing)} are not where they were registered: mount or restore them"
        yield Finding("models", State.WRONG, text)
    else:
        yield Finding("models", State.OK, f"{registered} served, their files are there")


def _requests(found: Snapshot) -> Iterator[Finding]:
    overdue = sum(found.gauges["grail_requests_overdue"].values())
    soon = sum(found.gauges["grail_requests_due_soon"].values())
    waiting = found.gauges["grail_requests_open"]
    attention = sum(count for (_, state), count in waiting.items() if state == "needs_attention")
    if overdue:
        yield Finding("deadlines", State.WRONG, f"{overdue:.0f} overdue: `grail requests list --overdue`")
    elif soon:
        yield Finding("deadlines", State.NOTE, f"{soon:.0f} due in a week: `grail requests list --due-within 7`")
    else:
        yield Finding("deadlines", State.OK, "nothing overdue, nothing due within a week")
    if attention:
        text = f"{attention:.0f} wait for a person: `grail requests list --state needs_attention`"
        yield Finding("attention", State.NOTE, text)


def _webhooks(found: Snapshot) -> Iterator[Finding]:
    dead, late = (found.gauges[f"grail_webhook_{name}"][()] for name in ("dead_letters", "lag_seconds"))
    if late > LATE_SECONDS:
        text = f"messages are {late / 3600:.0f} h late: is `grail worker control` there, and one beat?"
        yield Finding("webhooks", State.WRONG, text)
    elif dead:
        text = f"{dead:.0f} messages given up: `grail webhooks list`, then `grail webhooks replay ID --dead`"
        yield Finding("webhooks", State.NOTE, text)
    else:
        yield Finding("webhooks", State.OK, "nothing late, nothing given up")
