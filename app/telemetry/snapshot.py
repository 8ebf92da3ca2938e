"""One look at the rows, for metrics and for `grail doctor`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.audit_log import repository as audit_log
from app.config import Settings
from app.retention import repository as retention
from app.served_models import breaker
from app.tables import ServedModel
from app.telemetry import repository
from app.telemetry.families import Snapshot

MOST_MODELS = 200
SOON = timedelta(days=7)
DAY_SECONDS = 86_400.0
SCORES = {"min_cus": "grail_version_success", "min_rs": "grail_version_retention"}
DOMAIN = re.compile(r"[a-z]{1,32}")
BACKUP = "backup-*/manifest.json"
Numbers = dict[tuple[str, ...], float]


def read(session: Session, now: datetime, settings: Settings) -> Snapshot:
    """How everything stands."""
    rows = repository.models(session, MOST_MODELS + 1)
    shown = rows[:MOST_MODELS]
    names = {row.id: row.name for row in shown}
    gauges = {
        **_requests(session, names, now),
        **_jobs(session, names, now),
        **_versions(session, names),
        **_webhooks(session, now),
        **_workers(session, now - timedelta(seconds=settings.lease_seconds)),
        **_log(session, now),
        **_bundles(session, now),
        **_backups(settings.backup_dir, now),
    }
    return Snapshot(
        gauges=gauges,
        lease_losses={row.name: row.lease_losses for row in shown},
        breakers={row.name: _breaker(row, now, settings) for row in shown},
        left_out=len(rows) - len(shown),
        removed=retention.counts(session),
    )


def newest_backup(directory: Path) -> float | None:
    """When the newest whole backup was made, in seconds since 1970: its manifest is written last."""
    return max((path.stat().st_mtime for path in directory.glob(BACKUP)), default=None)


def _requests(session: Session, names: Mapping[uuid.UUID, str], now: datetime) -> dict[str, Numbers]:
    ids = list(names)
    waiting: Numbers = {}
    overdue: Numbers = {}
    soon: Numbers = {}
    for model_id, state, count in repository.open_requests(session, ids):
        waiting[names[model_id], str(state)] = float(count)
    for model_id, regulation, late, count in repository.due(session, now + SOON, now):
        if model_id in names:
            overdue[names[model_id], str(regulation)] = float(late)
            soon[names[model_id], str(regulation)] = float(count)
    ages = repository.oldest_pending(session, ids).items()
    dates = repository.next_due(session, ids).items()
    return {
        "grail_requests_open": waiting,
        "grail_requests_overdue": overdue,
        "grail_requests_due_soon": soon,
        "grail_queue_age_seconds": {(names[id_],): (now - at).total_seconds() for id_, at in ages},
        "grail_days_left": {(names[id_],): (at - now).total_seconds() / DAY_SECONDS for id_, at in dates},
    }


def _jobs(session: Session, names: Mapping[uuid.UUID, str], now: datetime) -> dict[str, Numbers]:
    count: Numbers = {}
    age: Numbers = {}
    for model_id, state, number, since in repository.open_jobs(session):
        if model_id in names:
            count[names[model_id], str(state)] = float(number)
            age[names[model_id], str(state)] = (now - since).total_seconds()
    stages: Numbers = {
        (names[model_id], stage): float(seconds)
        for model_id, timings in repository.last_timings(session, list(names)).items()
        for stage, seconds in timings.items()
        if isinstance(seconds, int | float)
    }
    return {"grail_jobs_open": count, "grail_job_age_seconds": age, "grail_stage_seconds": stages}


def _versions(session: Session, names: Mapping[uuid.UUID, str]) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {name: {} for name in SCORES.values()}
    number: Numbers = {}
    published: Numbers = {}
    for model_id, version, published_at, verdict in repository.active_versions(session, list(names)):
        model = names[model_id]
        number[(model,)] = float(version)
        if published_at is not None:
            published[(model,)] = published_at.timestamp()
        for check in _scores(verdict):
            found[SCORES[check["name"]]][model, check["scope"]] = float(check["value"])
    return {**found, "grail_version": number, "grail_version_published_timestamp_seconds": published}


def _scores(verdict: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Checks of whole domains that metrics tell of; those of single requests are left out."""
    return [
        check
        for check in (verdict or {}).get("checks", [])
        if check.get("name") in SCORES and DOMAIN.fullmatch(str(check.get("scope"))) and check.get("value") is not None
    ]


def _webhooks(session: Session, now: datetime) -> dict[str, Numbers]:
    found = repository.webhooks(session)
    late = 0.0 if found.first_due is None else max((now - found.first_due).total_seconds(), 0.0)
    numbers = {"lag_seconds": late, "pending": found.pending, "dead_letters": found.dead}
    return {f"grail_webhook_{name}": {(): float(number)} for name, number in numbers.items()}


def _workers(session: Session, since: datetime) -> dict[str, Numbers]:
    count, largest = repository.workers(session, since)
    return {"grail_workers": {(): float(count)}, "grail_worker_memory_bytes": {(): float(largest)}}


def _log(session: Session, now: datetime) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {
        "grail_log_leaves": {(): float(audit_log.size(session))},
        "grail_log_waiting": {(): float(audit_log.waiting(session))},
    }
    age = audit_log.last_checkpoint_age(session, now)
    return found if age is None else {**found, "grail_log_checkpoint_age_seconds": {(): age}}


def _bundles(session: Session, now: datetime) -> dict[str, Numbers]:
    waiting: Numbers = {("seal",): 0.0, ("proofs",): 0.0}
    ages: Numbers = {}
    for is_sealed, count, since in repository.bundles_waiting(session):
        place = ("proofs" if is_sealed else "seal",)
        waiting[place], ages[place] = float(count), (now - since).total_seconds()
    made: Numbers = {(): float(repository.bundles_made(session, now - SOON))}
    return {"grail_bundles_waiting": waiting, "grail_bundle_age_seconds": ages, "grail_bundles_sealed": made}


def _backups(directory: Path | None, now: datetime) -> dict[str, Numbers]:
    made = None if directory is None else newest_backup(directory)
    return {} if made is None else {"grail_backup_age_seconds": {(): now.timestamp() - made}}


def _breaker(model: ServedModel, now: datetime, settings: Settings) -> breaker.BreakerState:
    limits = breaker.Limits(settings.breaker_failures, settings.breaker_seconds)
    return breaker.state_of(model.breaker_failures, model.breaker_opened_at, now, limits)
