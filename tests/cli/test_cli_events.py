"""Webhooks and events from the command line, over real HTTP on a real database."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db import Database, transaction
from app.tables import Delivery, DeliveryState
from tests.app.service import until_settled
from tests.cli.conftest import Grail
from tests.conftest import Keys
from tests.fixtures.served import question

ADDRESS = "https://93.184.215.14/hook"


@pytest.fixture(autouse=True)
def key(keys: Keys, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use an administrator's key on a running API."""
    monkeypatch.setenv("GRAIL_KEY", keys.admin)


def test_a_webhook_is_made_looked_after_and_removed(grail: Grail, db: Database) -> None:
    assert "no webhook" in grail("webhooks", "list").err
    secret = grail("webhooks", "add", ADDRESS, "--kind", "request.*", "--kind", "job.published").out.strip()
    assert secret.startswith("whsec_")
    (hook,) = grail("webhooks", "list", "--json").json
    assert (hook["url"], hook["kinds"]) == (ADDRESS, ["request.*", "job.published"])
    assert "well" in grail("webhooks", "list").out and secret not in grail("webhooks", "list").out
    fresh = grail("webhooks", "rotate", hook["id"]).out.strip()
    assert fresh.startswith("whsec_") and fresh != secret
    grail("webhooks", "test", hook["id"])
    (delivery,) = grail("webhooks", "deliveries", hook["id"], "--json").json
    assert (delivery["kind"], delivery["state"]) == ("webhook.test", "pending")
    assert "webhook.test" in grail("webhooks", "deliveries", hook["id"]).out
    assert "not ended" in grail("webhooks", "replay", hook["id"], delivery["id"], expect=1).err
    with transaction(db) as session:
        session.execute(update(Delivery).values(state=DeliveryState.DEAD, attempts=8))
    assert grail("webhooks", "deliveries", hook["id"], "--state", "dead", "--json").json
    assert "1 on" in grail("webhooks", "replay", hook["id"], "--dead").err
    assert grail("webhooks", "deliveries", hook["id"], "--state", "dead", "--json").json == []
    assert "give the id" in grail("webhooks", "replay", hook["id"], expect=2).err
    grail("webhooks", "enable", hook["id"])
    grail("webhooks", "remove", hook["id"])
    assert grail("webhooks", "list", "--json").json == []


def test_an_address_of_our_own_network_is_refused_with_the_way_out(grail: Grail) -> None:
    said = grail("webhooks", "add", "https://10.0.0.1/", expect=1).err
    assert "private" in said and "GRAIL_WEBHOOK_PRIVATE_NETWORKS" in said


def test_events_are_shown_and_followed_to_their_end(
    grail: Grail, model_files: tuple[Path, Path], tmp_path: Path, db: Database
) -> None:
    base, adapter = model_files
    grail("models", "add", "people", "--base", base, "--adapter", adapter, "--template", "Q: {prompt} A:")
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"forget": [question(1)]}))
    asked, other = (
        grail("requests", "submit", body, "--model", "people", "--domain", "privacy").out.strip() for _ in range(2)
    )
    grail("requests", "withdraw", asked)
    until_settled(db)
    followed = grail("events", "--request", asked, "--follow")
    assert [line.split()[2] for line in followed.out.splitlines()] == ["request.received", "request.withdrawn"]
    assert "Ended: withdrawn" in followed.err
    shown = [json.loads(line) for line in grail("events", "--json").out.splitlines()]
    assert [event["kind"] for event in shown].count("request.received") == 2
    behind = grail("events", "--after", shown[0]["id"], "--kind", "request.received", "--json").out.splitlines()
    assert [json.loads(line)["request_id"] for line in behind] == [other]
    assert grail("events", "--after", "latest").out == ""
    assert "no request" in grail("events", "--request", uuid.uuid4(), "--follow", expect=1).err
