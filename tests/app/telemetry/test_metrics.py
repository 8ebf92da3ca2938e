"""Metrics tell of open work, clocks, versions and failures; to operators and to whoever holds the metrics token."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, text

from app.bundles import sealing
from app.bundles import service as bundles
from app.config import Settings
from app.db import Database, transaction
from app.jobs.failures import FailureKind
from app.main import create_app
from app.tables import Delivery, DeliveryState, Event, Report, Webhook
from app.telemetry.families import GAUGES
from app.telemetry.metrics import Metrics
from tests.app.bundles.concluded import concluded, signing
from tests.app.service import LEASE, NOW, Floor

TOKEN = "a token that reads metrics and nothing else"
DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
Samples = dict[str, dict[tuple[str, ...], float]]


def samples(body: str) -> Samples:
    """By name, then by the values of the labels in the order of their names."""
    found: Samples = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def scrape(floor: Floor) -> Iterator[Any]:
    """What a scrape of a fresh process shows: nothing is kept from the one before."""

    def once(**settings: Any) -> Samples:
        changed = floor.settings.model_copy(update={"metrics_token": TOKEN, **settings})
        with TestClient(create_app(changed)) as client:
            answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, answer.text
        return samples(answer.text)

    yield once


def test_a_backlog_with_its_clocks_is_told(floor: Floor, scrape: Any) -> None:
    late, soon, far = floor.ask(1, regulation="ccpa"), floor.ask(2), floor.ask(3)
    with transaction(floor.db) as session:
        for id_, due in ((late, timedelta(days=-2)), (soon, timedelta(days=3)), (far, timedelta(days=29))):
            session.execute(
                text("UPDATE request SET due_at = :due, received_at = :at WHERE id = :id"),
                {"due": NOW + due, "at": NOW - timedelta(days=40), "id": id_},
            )
    found = scrape()
    assert found["grail_requests_open"] == {("people", "received"): 3}
    assert found["grail_requests_overdue"] == {("people", "ccpa"): 1, ("people", "gdpr"): 0}
    assert found["grail_requests_due_soon"] == {("people", "ccpa"): 1, ("people", "gdpr"): 1}
    assert -3 < found["grail_days_left"]["people",] < -1
    assert 39 < found["grail_queue_age_seconds"]["people",] / 86_400 < 41
    assert found["grail_database_up"] == {(): 1} and found["grail_broker_up"] == {(): 1}


def test_versions_stages_and_lost_leases_are_told(floor: Floor, scrape: Any) -> None:
    verdict = {"ok": True, "checks": [
        {"name": "min_cus", "scope": "privacy", "value": 96.5, "bound": 85.0, "comparison": ">=", "ok": True},
        {"name": "min_rs", "scope": "privacy", "value": 91.0, "bound": 80.0, "comparison": ">=", "ok": True},
        {"name": "min_cus", "scope": f"request {uuid.uuid4()}", "value": 1.0, "ok": True},
    ]}  # fmt: skip
    floor.ask(1)
    job_id = floor.order()
    assert floor.claim(job_id) is not None
    running = scrape()
    assert running["grail_jobs_open"] == {("people", "running"): 1}
    assert running["grail_lease_losses_total"] == {("people",): 0}
    token = floor.claim(job_id, NOW + timedelta(seconds=LEASE + 1), "another")
    assert token is not None
    with transaction(floor.db) as session:
        session.execute(text("""UPDATE job SET timings = '{"unlearn": 12.5, "localise": 3.25}'"""))
    floor.evaluate(job_id, token, verdict)
    floor.conclude(job_id)
    found = scrape()
    assert found["grail_lease_losses_total"] == {("people",): 1}
    assert found["grail_version"] == {("people",): 2}
    assert found["grail_version_success"] == {("privacy", "people"): 96.5}
    assert found["grail_version_retention"] == {("privacy", "people"): 91.0}
    assert found["grail_stage_seconds"] == {("people", "unlearn"): 12.5, ("people", "localise"): 3.25}
    assert found.get("grail_jobs_open", {}) == {}


def test_bundles_that_wait_are_told_by_what_they_wait_for(floor: Floor, scrape: Any) -> None:
    job_id = concluded(floor)
    found = scrape()
    assert found["grail_bundles_waiting"] == {("seal",): 1, ("proofs",): 0}
    assert found["grail_bundle_age_seconds"][("seal",)] >= 0
    with floor.db.session_factory() as session:
        report_id = session.scalars(select(Report.id).where(Report.job_id == job_id)).one()
    sealing.seal(floor.db, signing(floor.settings), report_id)
    found = scrape()
    assert (found["grail_bundles_waiting"], found["grail_bundles_sealed"]) == ({("seal",): 0, ("proofs",): 1}, {(): 0})
    for _ in range(2):
        bundles.drive(floor.db, signing(floor.settings), retry_seconds=0.0)
    found = scrape()
    assert (found["grail_bundles_waiting"], found["grail_bundles_sealed"]) == ({("seal",): 0, ("proofs",): 0}, {(): 1})


def test_an_open_breaker_and_dead_letters_are_told(floor: Floor, scrape: Any) -> None:
    floor.ask(1)
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    floor.fail(job_id, token, FailureKind.OPERATOR, datetime.now(UTC))
    hook = Webhook(created_by=floor.caller.who["admin"].key_id, url="https://example.org/")
    with transaction(floor.db) as session:
        session.add(hook)
        session.flush()
        for state, late in ((DeliveryState.DEAD, 0), (DeliveryState.PENDING, 100), (DeliveryState.PENDING, -100)):
            event = Event(kind="webhook.test", data={})
            session.add(event)
            session.flush()
            at = datetime.now(UTC) - timedelta(seconds=late)
            session.add(Delivery(webhook_id=hook.id, event_id=event.id, state=state, next_at=at))
    found = scrape()
    states = {state: value for (_, state), value in found["grail_breaker_state"].items()}
    assert states == {"open": 1, "closed": 0, "half_open": 0}
    assert found["grail_webhook_dead_letters"] == {(): 1}
    assert found["grail_webhook_pending"] == {(): 2}
    assert 100 <= found["grail_webhook_lag_seconds"][()] < 200


def test_times_go_by_the_template_of_a_route_whatever_is_asked_for(floor: Floor) -> None:
    settings = floor.settings.model_copy(update={"metrics_token": TOKEN})
    with TestClient(create_app(settings)) as client:
        for path in (f"/v1/requests/{uuid.uuid4()}", f"/v1/requests/{uuid.uuid4()}", "/a/b", "/c", "/v1/models/x/y/z"):
            client.get(path, headers=floor.caller.header("operator"))
        client.request("BREW", "/c")
        found = samples(client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text)
    counts = found["grail_http_request_seconds_count"]
    assert counts == {
        ("GET", "/v1/requests/{request_id}", "4xx"): 2, ("GET", "unmatched", "4xx"): 3,
        ("other", "unmatched", "4xx"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "status"),
    [("admin", 200), ("operator", 200), ("officer", 200), ("requester", 403), ("nobody", 401), (TOKEN, 200),
     ("older token", 200), (f"{TOKEN},older token", 401), ("", 401)],
)  # fmt: skip
def test_metrics_are_for_operators_and_the_token(floor: Floor, given: str, status: int) -> None:
    settings = floor.settings.model_copy(update={"metrics_token": f"{TOKEN},older token"})
    with TestClient(create_app(settings)) as client:
        header = {"Authorization": f"Bearer {floor.caller.keys.get(given, given)}"}
        assert client.get("/metrics", headers=header).status_code == status
        other = client.get("/v1/models", headers=header).status_code
        assert other == (200 if given in floor.caller.keys else 401), "the token opens nothing else"


def test_without_a_token_set_an_empty_one_opens_nothing(floor: Floor) -> None:
    for given in ("", " ", ","):
        answer = floor.caller.client.get("/metrics", headers={"Authorization": f"Bearer {given}"})
        assert answer.status_code == 401


def test_a_database_that_is_away_is_told_to_whoever_holds_the_token(settings: Settings) -> None:
    away = settings.model_copy(
        update={"metrics_token": TOKEN, "database_url": "postgresql://grail:hunter2@127.0.0.1:1/grail"}
    )
    with TestClient(create_app(away)) as client:
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert samples(answer.text)["grail_database_up"] == {(): 0}
    assert "hunter2" not in answer.text


PROCESS = """
import sys
from app.config import load_settings
from app.db import Database
from app.telemetry.metrics import Metrics
metrics = Metrics(Database(load_settings().database_url), load_settings())
if sys.argv[1:] == ["tell"]:
    sys.stdout.buffer.write(metrics.exposition())
else:
    metrics.observe("GET", "/v1/models", 200, 0.1)
"""


def test_processes_that_share_a_directory_tell_of_one_another(settings: Settings, tmp_path: Path) -> None:
    shared = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    run = [sys.executable, "-c", PROCESS]
    for _ in range(2):
        subprocess.run(run, env=shared, check=True)
    told = subprocess.run([*run, "tell"], env=shared, check=True, capture_output=True, text=True).stdout
    assert samples(told)["grail_http_request_seconds_count"] == {("GET", "/v1/models", "2xx"): 2}
    assert samples(told)["grail_database_up"] == {(): 1}


def test_scrapes_that_follow_each_other_ask_the_database_once(settings: Settings, db: Database) -> None:
    metrics, asked = Metrics(db, settings), []
    from sqlalchemy import event

    event.listen(db.engine, "after_cursor_execute", lambda *given: asked.append(given[2]))
    metrics.exposition()
    first = len(asked)
    metrics.exposition()
    assert first > 5 and len(asked) == first


def names_in(told: str) -> set[str]:
    return set(re.findall(r"\bgrail_[a-z_]+", told))


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "prometheus-alerts.yml"])
def test_dashboard_and_alerts_name_metrics_that_exist(floor: Floor, scrape: Any, file: str) -> None:
    told = (DEPLOY / file).read_text(encoding="utf-8")
    document = json.loads(told) if file.endswith("json") else yaml.safe_load(told)
    expressions = list(_expressions(document))
    assert len(expressions) >= 10
    settings = floor.settings.model_copy(update={"metrics_token": TOKEN})
    with TestClient(create_app(settings)) as client:
        shown = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    families = set(re.findall(r"^# TYPE (\S+) ", shown, re.M))
    known = families | {f"{name}_{part}" for name in families for part in ("bucket", "count", "sum")} | set(GAUGES)
    used = names_in(" ".join(expressions))
    assert used <= known, used - known
    assert len(used) > 12


def _expressions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "expr")
        for value in node.values():
            yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)
