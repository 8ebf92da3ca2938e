"""Limits per key, role, kind of call and address, as callers meet them; and what happens without a counter."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.auth import Role
from app.config import RateKind, RateRole, Settings
from app.db import transaction
from app.embedded.services import EmbeddedServices
from app.embedded.valkey import EmbeddedValkey
from app.keys.service import create_key, rotate_key
from app.main import create_app
from app.rates.counting import PREFIX, url_of
from app.rates.quotas import DEFAULTS, kind_of, place_of
from tests.app.service import NOW, Floor, slug
from tests.app.telemetry.test_metrics import samples
from tests.fixtures.served import question

READ = "/v1/models"
BODY = {"served_model": "people", "domain": "privacy", "forget": [question(1)]}
HOUR = 3600
TOKEN = "a token that reads metrics"


@pytest.fixture(autouse=True)
def nobody_counted(services: EmbeddedServices) -> Iterator[None]:
    """The counts of one test are none of another's."""
    import redis

    yield
    with redis.Redis.from_url(services.valkey.redis_url()) as connection:
        for key in connection.scan_iter(f"{PREFIX}*"):
            connection.delete(key)


@contextmanager
def limited(floor: Floor, address: str = "198.51.100.7", **more: Any) -> Iterator[TestClient]:
    """One API process of the same service, with limits that are soon reached; no test waits for its window."""
    changes = {"rate_seconds": HOUR, "rate_limits": {}, "rate_failures_per_address": 5, "metrics_token": TOKEN, **more}
    settings = floor.settings.model_copy(update=changes)
    with TestClient(create_app(settings), raise_server_exceptions=False, client=(address, 1)) as client:
        yield client


def key_of(floor: Floor, role: Role = Role.REQUESTER) -> tuple[str, dict[str, str]]:
    """A fresh key's prefix and header."""
    with transaction(floor.db) as session:
        row, plaintext = create_key(session, "caller", role)
        return row.prefix, {"Authorization": f"Bearer {plaintext}"}


def statuses(client: TestClient, times: int, headers: dict[str, str], path: str = READ) -> list[int]:
    return [client.get(path, headers=headers).status_code for _ in range(times)]


def test_over_its_rate_a_key_is_told_when_to_come_back(shared: Floor) -> None:
    _, headers = key_of(shared)
    with limited(shared, rate_limits={"requester": {"read": 3}}) as client:
        answers = [client.get(READ, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"read";q=3;w={HOUR}'}
    last = answers[-1]
    assert slug(last) == "rate-limited" and last.json()["limit"] == 3
    assert 0 < int(last.headers["retry-after"]) <= HOUR * 13 // 12
    assert last.headers["ratelimit"] == f'"read";r=0;t={last.headers["retry-after"]}'
    assert "ratelimit" not in shared.caller.client.get("/healthz").headers


def test_kinds_of_calls_and_keys_do_not_use_up_each_others(shared: Floor) -> None:
    (_, one), (_, other) = key_of(shared), key_of(shared)
    file = {"content": b"{}", "headers": one | {"Content-Type": "application/x-ndjson"}}
    with limited(shared, rate_limits={"requester": {"read": 1, "write": 1, "import": 1}}) as client:
        for expected in (200, 429):
            assert client.get(READ, headers=one).status_code == expected
        for expected in (202, 429):
            assert client.post("/v1/requests", headers=one, json=BODY).status_code == expected
        for expected in (202, 429):
            assert client.post("/v1/imports", **file).status_code == expected
        assert client.get(READ, headers=other).status_code == 200


def test_each_role_has_its_own_limit_and_a_key_may_have_another(shared: Floor) -> None:
    prefix, special = key_of(shared)
    _, plain = key_of(shared)
    _, operator = key_of(shared, Role.OPERATOR)
    limits = {"requester": {"read": 1}, "operator": {"read": 3}}
    with limited(shared, rate_limits=limits, rate_limits_of_keys={prefix: {"read": 2}}) as client:
        assert statuses(client, 3, special) == [200, 200, 429]
        assert statuses(client, 2, plain) == [200, 429]
        assert statuses(client, 4, operator) == [200, 200, 200, 429]


def test_a_second_key_of_a_holder_is_no_second_rate(shared: Floor) -> None:
    from datetime import timedelta

    prefix, headers = key_of(shared)
    with transaction(shared.db) as session:
        _, plaintext = rotate_key(session, prefix, NOW, overlap=timedelta(days=1))
    with limited(shared, rate_limits={"requester": {"read": 1}}) as client:
        assert statuses(client, 1, headers) == [200]
        assert statuses(client, 1, {"Authorization": f"Bearer {plaintext}"}) == [429]


def test_two_processes_share_one_limit(shared: Floor) -> None:
    _, headers = key_of(shared)
    limits = {"requester": {"read": 3}}
    with limited(shared, rate_limits=limits) as one, limited(shared, rate_limits=limits) as other:
        found = [client.get(READ, headers=headers).status_code for client in (one, other, one, other, one)]
    assert found == [200, 200, 200, 429, 429]


@pytest.mark.parametrize("sent", ["nothing", "no key", "a wrong key"])
def test_guessing_keys_is_bounded_by_address(shared: Floor, sent: str) -> None:
    guess = {"nothing": {}, "no key": {"Authorization": "Bearer x"}}.get(
        sent, {"Authorization": "Bearer grail_00000000_guess"}
    )
    with limited(shared) as client:
        answers = [client.get(READ, headers=guess) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429]
        assert slug(answers[-1]) == "too-many-failures" and int(answers[-1].headers["retry-after"]) > 0
    with limited(shared, address="198.51.100.8") as client:
        assert client.get(READ, headers=guess).status_code == 401


def test_a_key_that_was_right_before_is_not_locked_out_by_guesses_from_its_address(
    shared: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, known), (_, new) = key_of(shared), key_of(shared)
    monkeypatch.setattr("app.auth.KNOWN_SECONDS", 0.0)  # looked up anew at each call
    with limited(shared) as client:
        assert statuses(client, 1, known) == [200]
        assert statuses(client, 6, {}) == [401] * 5 + [429]
        assert statuses(client, 1, known) == [200]
        assert statuses(client, 1, new) == [429], "nobody looks for a key that may be a guess"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/metrics"])
def test_doors_of_their_own_count_what_they_refuse(shared: Floor, path: str) -> None:
    with limited(shared) as client:
        assert statuses(client, 7, {}, path) == [401] * 5 + [429] * 2


def test_health_is_answered_however_often_it_is_asked(shared: Floor) -> None:
    with limited(shared, rate_failures_per_address=1) as client:
        assert statuses(client, 2, {}) == [401, 429]
        assert {client.get("/healthz").status_code for _ in range(20)} == {200}
        assert {client.get("/readyz").status_code for _ in range(20)} == {200}


def kill(counter: EmbeddedValkey) -> None:
    """It is gone, and nobody starts it again."""
    child = counter.child
    assert child is not None and child.process is not None
    child.restart = False
    child.process.kill()
    child.process.wait()


def told(client: TestClient) -> dict[str, dict[tuple[str, ...], float]]:
    return samples(client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text)


def test_without_its_counter_the_service_goes_on_and_says_so_once(shared: Floor, open_directory: Path) -> None:
    _, headers = key_of(shared)
    limits = {"requester": {"read": 2}}
    with EmbeddedValkey(open_directory / "counter") as counter:
        own = {"rate_url": counter.redis_url(), "rate_limits": limits, "rate_pause_seconds": 1e6}
        with limited(shared, **own) as client, capture_logs() as logs:
            assert statuses(client, 3, headers) == [200, 200, 429]
            assert told(client)["grail_rates_counted"] == {(): 1}
            assert told(client)["grail_rate_limited_total"] == {("read", "requester"): 1}
            assert "rates" not in client.get("/readyz").json()["warnings"]
            kill(counter)
            assert statuses(client, 5, headers) == [200] * 5
            assert "ratelimit" not in client.get(READ, headers=headers).headers
            assert told(client)["grail_rates_counted"] == {(): 0}
            client.app.state.readiness = type(client.app.state.readiness)()  # type: ignore[attr-defined]
            ready = client.get("/readyz")
            assert ready.status_code == 200 and "no limit holds" in ready.json()["warnings"]["rates"]
            assert [line["log_level"] for line in logs if line["event"] == "rates_not_counted"] == ["warning"]
            counter.stop()
            counter.start()
            client.app.state.counting._again_at = 0.0  # type: ignore[attr-defined]  # the pause is over
            assert statuses(client, 3, headers) == [200, 200, 429]
            assert told(client)["grail_rates_counted"] == {(): 1}
            assert [line["event"] for line in logs if line["event"].startswith("rates_")] == [
                "rates_not_counted", "rates_counted_again",
            ]  # fmt: skip


def test_a_counter_that_takes_calls_and_says_nothing_is_asked_once(shared: Floor) -> None:
    import socket

    _, headers = key_of(shared)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with limited(shared, rate_url=url, rate_pause_seconds=1e6, rate_limits={"requester": {"read": 1}}) as client:
            assert statuses(client, 4, headers) == [200] * 4
        silent.setblocking(False)
        accepted = 0
        try:
            while True:
                silent.accept()[0].close()
                accepted += 1
        except BlockingIOError:
            pass
    assert accepted == 1


def test_limits_that_are_off_ask_nobody(shared: Floor) -> None:
    _, headers = key_of(shared)
    limits = {"requester": {"read": 1}}
    with limited(shared, rate_limits_on=False, rate_limits=limits, broker_url="redis://127.0.0.1:1/0") as client:
        assert statuses(client, 3, headers) == [200] * 3
        assert client.get("/readyz").json()["warnings"].keys() <= {"workers", "log"}


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        ("redis+socket:///run/valkey.sock", "unix:///run/valkey.sock?db=0"),
        ("redis+socket:///run/valkey.sock?virtual_host=3", "unix:///run/valkey.sock?db=3"),
        ("rediss://:word@host:1/2", "rediss://:word@host:1/2"),
        ("amqp://host", None),
    ],
)
def test_where_calls_are_counted(broker: str, url: str | None) -> None:
    assert url_of(Settings(broker_url=broker)) == url
    assert url_of(Settings(broker_url=broker, rate_url="redis://counter")) == "redis://counter"


def test_a_broker_of_another_kind_is_told_at_once(shared: Floor) -> None:
    _, headers = key_of(shared)
    written = io.StringIO()
    with redirect_stderr(written), limited(shared, broker_url="amqp://127.0.0.1:1") as client:
        assert statuses(client, 1, headers) == [200]
        assert "GRAIL_RATE_URL" in client.get("/readyz").json()["warnings"]["rates"]
        assert told(client)["grail_rates_counted"] == {(): 0}
    assert written.getvalue().count("rates_not_counted") == 1


@pytest.mark.parametrize(
    ("client", "place"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("testclient", 5), "unknown"),
        (None, "local"),
    ],
)
def test_one_place_is_an_address_or_all_that_one_party_has(client: Any, place: str) -> None:
    assert place_of({"type": "http", "client": client}) == place


def test_every_role_and_kind_has_a_default() -> None:
    assert set(get_args(RateRole)) == {role.value for role in DEFAULTS} == {role.value for role in Role}
    assert all(set(limits) == set(get_args(RateKind)) for limits in DEFAULTS.values())
    kinds = [kind_of(*call, "/v1/imports") for call in (("HEAD", "/"), ("GET", "/v1/imports"), ("POST", "/v1/imports"))]
    assert kinds == ["read", "read", "import"] and kind_of("DELETE", "/v1/imports", "/v1/imports") == "import"


@pytest.mark.parametrize(
    "given", ['{"nobody": {"read": 1}}', '{"requester": {"look": 1}}', '{"requester": {"read": 0}}', "many"]
)
def test_limits_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    from pydantic_settings import SettingsError

    monkeypatch.setenv("GRAIL_RATE_LIMITS", given)
    with pytest.raises((ValueError, SettingsError)):
        Settings()


def test_one_number_of_the_settings_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.rates.quotas import quota_of

    monkeypatch.setenv("GRAIL_RATE_LIMITS", json.dumps({"admin": {"write": 7}}))
    settings = Settings()
    assert quota_of(settings, Role.ADMIN, "", "write").limit == 7
    assert quota_of(settings, Role.ADMIN, "", "read").limit == DEFAULTS[Role.ADMIN]["read"]
