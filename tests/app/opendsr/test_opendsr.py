"""A privacy platform hands on an erasure, follows it, cancels it, and can check who said what."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.config import Settings
from app.db import transaction
from app.lifecycle import RequestState
from app.opendsr.forms import STATUS, domain_of
from app.webhooks import service as webhooks
from app.webhooks.messages import OPENDSR
from app.webhooks.repository import hold_key
from tests.app.service import BAD, NOW, Floor, until_blocked
from tests.app.webhooks.receiver import LOOPBACK, Post, Receiver
from tests.fixtures.served import question

DOMAIN = "grail.example.com"


@pytest.fixture
def database_url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings are read after this."""
    monkeypatch.setenv("GRAIL_WEBHOOK_PRIVATE_NETWORKS", LOOPBACK)
    monkeypatch.setenv("GRAIL_DELIVER_SECONDS", "0.05")
    monkeypatch.setenv("GRAIL_PUBLIC_URL", f"https://{DOMAIN}")
    return database_url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


def body(*numbers: int, **more: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-26T09:00:00Z",
        "subject_identities": [
            {"identity_type": "email", "identity_value": "ada@example.com", "identity_format": "raw"}
        ],
        "api_version": "2.0",
        "extensions": {
            "other.example.com": {"their": 1},
            DOMAIN: {
                "served_model": "people",
                "forget": [question(number) for number in numbers],
                "retain": [question(900 + numbers[0])] if numbers else [],
            },
        },
        **more,
    }


def check(floor: Floor, signature: str, content: bytes) -> None:
    """As a controller does: with the key that discovery names."""
    found = floor.caller.call("requester", "GET", "/opendsr/discovery")
    path = found["processor_certificate"].removeprefix(f"https://{DOMAIN}")
    key = serialization.load_pem_public_key(floor.caller.send("requester", "GET", path).content)
    if isinstance(key, Ed25519PublicKey):
        key.verify(base64.b64decode(signature), content)
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(base64.b64decode(signature), content, padding.PKCS1v15(), hashes.SHA256())


def test_discovery_says_what_is_taken(floor: Floor) -> None:
    found = floor.caller.call("requester", "GET", "/opendsr/discovery")
    assert found["api_version"] == "2.0"
    assert found["supported_subject_request_types"] == ["erasure"]
    assert found["supported_identities"] and found["processor_domain"] == DOMAIN


def test_an_erasure_becomes_a_request_and_its_answers_are_signed(floor: Floor) -> None:
    sent = json.dumps(body(1)).encode()
    name = json.loads(sent)["subject_request_id"]
    headers = {"Content-Type": "application/json"}
    answer = floor.caller.send("requester", "POST", "/opendsr/requests", content=sent, headers=headers)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert base64.b64decode(receipt["encoded_request"]) == sent
    assert receipt["subject_request_id"] == name
    assert receipt["controller_id"] == str(floor.caller.who["requester"].key_id)
    assert receipt["expected_completion_time"] > receipt["received_time"]
    (request,) = floor.caller.call("requester", "GET", "/v1/requests", params={"client_reference": name})["items"]
    assert (request["domain"], request["forget_items"], request["retain_items"]) == ("privacy", 1, 1)
    status = floor.caller.send("requester", "GET", f"/opendsr/requests/{name}")
    assert status.json()["request_status"] == "pending"
    assert status.json()["extensions"][DOMAIN]["request_id"] == request["id"]
    for signed in (answer, status, floor.caller.send("requester", "GET", "/opendsr/discovery")):
        assert signed.headers["x-opendsr-processor-domain"] == DOMAIN
        check(floor, signed.headers["x-opendsr-signature"], signed.content)
    with pytest.raises(InvalidSignature):
        check(floor, answer.headers["x-opendsr-signature"], answer.content + b" ")
    floor.work()
    assert floor.caller.call("requester", "GET", f"/opendsr/requests/{name}")["request_status"] == "completed"
    assert "ada@example.com" not in str(vars(floor.request(request["id"])))


def test_callbacks_tell_each_change_of_status_signed(floor: Floor, settings: Settings, receiver: Receiver) -> None:
    post = Post(floor.caller, settings)
    asked = body(1, status_callback_urls=[receiver.url, receiver.url])
    floor.caller.call("requester", "POST", "/opendsr/requests", 201, json=asked)
    floor.caller.call("requester", "POST", "/opendsr/requests", 201, json=body(2))
    floor.ask(3)
    post.run()
    floor.work(BAD)
    post.run()
    floor.work()
    post.run()
    post.run()
    told = [got.json["request_status"] for got in receiver.got]
    assert told == ["pending", "in_progress", "pending", "in_progress", "completed"]
    for got in receiver.got:
        assert got.json["subject_request_id"] == asked["subject_request_id"]
        assert got.json["status_callback_url"] == receiver.url
        assert got.json["controller_id"] == str(floor.caller.who["requester"].key_id)
        assert got.headers["x-opendsr-processor-domain"] == DOMAIN
        check(floor, got.headers["x-opendsr-signature"], got.body)
    (hook,) = floor.caller.call("requester", "GET", "/v1/webhooks")["items"]
    assert (hook["form"], bool(hook["disabled_at"])) == ("opendsr", True), "retired with its request"


@pytest.fixture
def few(floor: Floor) -> Iterator[Settings]:
    """A service whose keys may have two callbacks open."""
    state = floor.caller.client.app.state  # type: ignore[attr-defined]
    state.settings = floor.settings.model_copy(update={"callbacks_per_key": 2})
    yield state.settings
    state.settings = floor.settings


def hand_on(floor: Floor, number: int, *urls: str, role: str = "requester") -> tuple[int, dict[str, Any]]:
    """Status and answer of a request with these callbacks."""
    sent = body(number, status_callback_urls=list(urls))
    answer = floor.caller.send(role, "POST", "/opendsr/requests", json=sent)
    return answer.status_code, answer.json()


def test_a_key_has_so_many_callbacks_open_and_no_more(floor: Floor, few: Settings, receiver: Receiver) -> None:
    post, urls = Post(floor.caller, few), [f"{receiver.url}{number}" for number in range(3)]
    status, refused = hand_on(floor, 1, *urls)
    assert (status, refused["type"]) == (400, "urn:grail:problem:opendsr-refused")
    (told,) = refused["error"]["errors"]
    assert told["reason"] == "too-many-callbacks"
    assert told["message"] == "0 are open, 3 more were asked for, 2 are allowed"
    assert "without `status_callback_urls`" in refused["mend"] and "GRAIL_CALLBACKS_PER_KEY" in refused["mend"]
    assert (refused["open"], refused["limit"]) == (0, 2)
    assert floor.caller.call("requester", "GET", "/v1/requests")["items"] == []
    assert hand_on(floor, 1, urls[0], urls[0], urls[1])[0] == 201, "an address that stands twice is one"
    assert hand_on(floor, 2, urls[0])[1]["error"]["message"] == "2 are open, 1 more were asked for, 2 are allowed"
    assert hand_on(floor, 3)[0] == 201, "without callbacks it is taken"
    assert hand_on(floor, 4, *urls[:2], role="other")[0] == 201, "another key has its own"
    floor.caller.call("requester", "POST", "/v1/webhooks", 201, json={"url": receiver.url})
    floor.work()
    post.run()
    assert hand_on(floor, 5, *urls[:2])[0] == 201, "those whose last word was told are closed"


def test_callbacks_that_were_disabled_do_not_come_back_over_the_bound(
    floor: Floor, few: Settings, receiver: Receiver
) -> None:
    post = Post(floor.caller, few)
    assert hand_on(floor, 1, receiver.url)[0] == 201
    receiver.status = 410
    post.run()
    (gone,) = floor.caller.call("requester", "GET", "/v1/webhooks")["items"]
    assert gone["disabled_at"]
    assert hand_on(floor, 2, receiver.url, f"{receiver.url}other")[0] == 201
    path = f"/v1/webhooks/{gone['id']}/enable"
    assert floor.caller.refused("requester", "POST", path) == (409, "too-many-callbacks")
    assert floor.caller.refused("admin", "POST", path) == (409, "too-many-callbacks")
    (other, _) = floor.caller.call("requester", "GET", "/v1/webhooks")["items"][1:]
    assert floor.caller.send("requester", "DELETE", f"/v1/webhooks/{other['id']}").status_code == 204
    assert floor.caller.call("requester", "POST", path)["disabled_at"] is None


def test_two_requests_at_once_do_not_share_the_last_place(floor: Floor, few: Settings, receiver: Receiver) -> None:
    """The second counts once the first is stored."""
    assert hand_on(floor, 1, receiver.url)[0] == 201
    who = floor.caller.who["requester"]
    (first,) = floor.caller.call("requester", "GET", "/v1/requests")["items"]
    with ThreadPoolExecutor(1) as thread, transaction(floor.db) as session:
        hold_key(session, who.key_id)
        webhooks.add(session, receiver.url, who, NOW, kinds=[], form=OPENDSR, request_id=uuid.UUID(first["id"]))
        second = thread.submit(hand_on, floor, 2, receiver.url)
        until_blocked(floor.db, second.done)
    assert second.result()[0] == 400


def test_a_callback_that_fails_comes_again(floor: Floor, settings: Settings, receiver: Receiver) -> None:
    post = Post(floor.caller, settings)
    floor.caller.call(
        "requester", "POST", "/opendsr/requests", 201, json=body(1, status_callback_urls=[receiver.url])
    )
    receiver.status = 503
    post.run()
    receiver.status = 200
    post.run(10)
    assert [got.json["request_status"] for got in receiver.got] == ["pending", "pending"]
    assert len({got.id for got in receiver.got}) == 1


def test_cancelling_withdraws_until_a_job_works_on_it(floor: Floor) -> None:
    first, second = body(1), body(2)
    for asked in (first, second):
        floor.caller.call("requester", "POST", "/opendsr/requests", 201, json=asked)
    path = f"/opendsr/requests/{first['subject_request_id']}"
    assert floor.caller.call("requester", "DELETE", path, 202)["subject_request_id"] == first["subject_request_id"]
    assert floor.caller.call("requester", "GET", path)["request_status"] == "cancelled"
    floor.work()
    answer = floor.caller.send("requester", "DELETE", f"/opendsr/requests/{second['subject_request_id']}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400 and answer.json()["error"]["errors"][0]["reason"] == "not-withdrawable"


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "access": ({"subject_request_type": "access"}, "only-erasure"),
    "portability": ({"subject_request_type": "portability"}, "only-erasure"),
    "another type": ({"subject_request_type": "Quincestreet"}, "unprocessable"),
    "no extension": ({"extensions": {}}, "extension-missing"),
    "another's extension": ({"extensions": {"Quincestreet": {}}}, "extension-missing"),
    "nothing to forget": ({"extensions": {DOMAIN: {"served_model": "people", "forget": []}}}, "unprocessable"),
    "an unknown name": (
        {"extensions": {DOMAIN: {"served_model": "people", "forget": [question(1)], "Quincestreet": 1}}},
        "unprocessable",
    ),
    "an unknown model": (
        {"extensions": {DOMAIN: {"served_model": "nobody", "forget": [question(1)]}}}, "unknown-served-model",
    ),
    "an item twice": (
        {"extensions": {DOMAIN: {"served_model": "people", "forget": [question(1), question(1)]}}}, "duplicate-item",
    ),
    "a private callback": ({"status_callback_urls": ["https://10.0.0.1/"]}, "address-refused"),
    "no id": ({"subject_request_id": "Quincestreet"}, "unprocessable"),
    "no time": ({"submitted_time": 5}, "unprocessable"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), FAULTY.values(), ids=FAULTY)
def test_what_is_not_taken_is_refused_in_the_specifications_form(
    floor: Floor, change: dict[str, Any], reason: str
) -> None:
    answer = floor.caller.send("requester", "POST", "/opendsr/requests", json={**body(1), **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == 400 and error["message"]
    assert error["errors"][0]["reason"] == reason
    assert answer.json()["mend"]
    assert "Quincestreet" not in answer.text and "ada@example.com" not in answer.text
    assert floor.caller.call("requester", "GET", "/v1/requests")["items"] == []


def test_an_id_is_taken_once_by_a_key_and_seen_by_no_other(floor: Floor) -> None:
    asked = body(1)
    floor.caller.call("requester", "POST", "/opendsr/requests", 201, json=asked)
    answer = floor.caller.send("requester", "POST", "/opendsr/requests", json=asked)
    assert (answer.status_code, answer.json()["error"]["errors"][0]["reason"]) == (400, "subject-request-id-taken")
    path = f"/opendsr/requests/{asked['subject_request_id']}"
    for role in ("other", "operator", "officer", "admin"):
        for method in ("GET", "DELETE"):
            answer = floor.caller.send(role, method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)
    floor.caller.call("other", "POST", "/opendsr/requests", 201, json=asked)


def test_without_a_key_nothing_is_said(floor: Floor) -> None:
    answer = floor.caller.client.get("/opendsr/discovery")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401)
    assert answer.headers["www-authenticate"]


def test_the_operators_rsa_key_signs_as_platforms_expect_it(floor: Floor, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "opendsr.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    state = floor.caller.client.app.state  # type: ignore[attr-defined]
    state.settings = floor.settings.model_copy(update={"opendsr_key_file": file})
    answer = floor.caller.send("requester", "GET", "/opendsr/discovery")
    check(floor, answer.headers["x-opendsr-signature"], answer.content)
    assert b"BEGIN PUBLIC KEY" in floor.caller.send("requester", "GET", "/opendsr/key").content
    file.write_text("no key at all")
    answer = floor.caller.send("requester", "POST", "/opendsr/requests", json=body(1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, 500)
    state.settings = floor.settings
    assert floor.caller.call("requester", "GET", "/v1/requests")["items"] == [], "an unsigned answer commits nothing"


def test_every_state_has_its_status_and_the_domain_is_the_addresss_host() -> None:
    assert set(STATUS) == set(RequestState)
    assert domain_of("https://grail.example.com:8443/x") == DOMAIN
    assert domain_of("") == "localhost"
