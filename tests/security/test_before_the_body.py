"""Nobody's body is read before their key was looked at, whatever else is wrong with the call."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message

from tests.app.service import Floor, revoke
from tests.app.test_openapi import OPEN, OPERATIONS, address

WITH_BODY = sorted(key for key in OPERATIONS if key not in OPEN and key[0] != "GET")
WRONG = {
    "malformed": [(b"content-type", b"application/json"), (b"content-length", b"1")],
    "too large": [(b"content-type", b"application/json"), (b"content-length", b"9" * 30)],
    "no JSON": [(b"content-type", b"text/plain"), (b"content-length", b"5")],
    "compressed": [(b"content-encoding", b"gzip"), (b"transfer-encoding", b"chunked")],
    "no number": [(b"content-length", b"-5")],
}
KEYS = {"none": b"", "no key": b"Bearer x", "unknown": b"Bearer grail_00000000_x", "basic": b"Basic Z3JhaWw6eA=="}


def called(floor: Floor, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of a call whose body must not be asked for."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"", "headers": headers,
        "client": ("192.0.2.1", 1), "server": ("test", 80),
    }  # fmt: skip
    app: Any = floor.caller.client.app

    async def run() -> None:
        await app(scope, receive, send)

    portal = floor.caller.client.portal
    assert portal is not None
    portal.call(run)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("wrong", WRONG)
def test_without_a_key_nothing_of_a_body_is_read_or_judged(shared: Floor, wrong: str, key: str) -> None:
    headers = WRONG[wrong] + ([(b"authorization", KEYS[key])] if KEYS[key] else [])
    for method, path in WITH_BODY:
        status, answered = called(shared, method, address(path), headers)
        assert status == 401, (method, path)
        has_body = wrong != "no number"
        assert (answered.get(b"connection") == b"close") or not has_body, "the rest of the body would be waited for"


def test_with_a_key_each_wrong_call_is_refused_in_its_own_way(shared: Floor) -> None:
    key = (b"authorization", f"Bearer {shared.caller.keys['admin']}".encode())
    path = "/v1/requests"
    found = {name: called(shared, "POST", path, [*WRONG[name], key])[0] for name in WRONG if name != "malformed"}
    assert found == {"too large": 413, "no JSON": 415, "compressed": 415, "no number": 400}
    for length in (b"x", b"", b"+1", b"1e3", b"\xb2"):
        assert called(shared, "POST", path, [(b"content-length", length), key])[0] == 400


def test_a_body_is_not_parsed_for_a_key_that_was_revoked_before_it_came(shared: Floor) -> None:
    """Unless this process saw the key in the minute before: then the first statement of the call refuses it."""
    from app.auth import Role
    from app.db import transaction
    from app.keys.service import create_key

    with transaction(shared.db) as session:
        _, plaintext = create_key(session, "leaver", Role.ADMIN)
    revoke(shared.db, plaintext)
    headers = [*WRONG["malformed"], (b"authorization", f"Bearer {plaintext}".encode())]
    assert called(shared, "POST", "/v1/requests", headers)[0] == 401


def test_below_another_root_the_same_doors_are_guarded(shared: Floor) -> None:
    """Behind a proxy that serves us below a path: `uvicorn --root-path`."""
    from fastapi.testclient import TestClient

    client = TestClient(shared.caller.client.app, root_path="/below")
    client.portal = shared.caller.client.portal
    assert client.post("/below/v1/requests", content=b"x").status_code == 401
    assert client.get("/below/v1/models", headers=shared.caller.header("admin")).status_code == 200
