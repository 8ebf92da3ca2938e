"""Bodies that are too large, are no JSON, or hold what can not be stored; and what every answer carries."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.limits import BodyLimit, Bounds
from app.main import create_app
from tests.app.service import Floor, slug
from tests.fixtures.served import question

PATH = "/v1/requests"
LIMIT = 2000
SECRET = "Ottoline Brandmayr of 4 Quince Street"


def body(**more: Any) -> dict[str, Any]:
    return {"served_model": "people", "domain": "privacy", "forget": [question(1)], **more}


@pytest.fixture(scope="module")
def narrow(shared: Floor) -> Iterator[TestClient]:
    """The same service with a small limit."""
    api = create_app(shared.settings.model_copy(update={"max_body_bytes": LIMIT}))
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


def pieces(total: int, size: int = 500) -> Iterator[bytes]:
    for at in range(0, total, size):
        yield b" " * min(size, total - at)


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("PATCH", "/v1/models/people"), ("PUT", "/v1/models/people/retain-set")]
)
def test_a_body_over_the_limit_is_refused_however_it_comes(
    shared: Floor, narrow: TestClient, declared: bool, method: str, path: str
) -> None:
    content: Any = b" " * (LIMIT + 1) if declared else pieces(LIMIT + 1)
    headers = shared.caller.header("admin") | {"Content-Type": "application/json"}
    answer = narrow.request(method, path, content=content, headers=headers)
    assert (answer.status_code, slug(answer)) == (413, "too-large")
    assert answer.json()["limit_bytes"] == LIMIT
    assert ("content-length" in answer.request.headers) == declared


def test_a_body_of_exactly_the_limit_is_read(shared: Floor, narrow: TestClient) -> None:
    headers = shared.caller.header("admin") | {"Content-Type": "application/json"}
    plain = json.dumps(body()).encode()
    assert narrow.post(PATH, content=plain.ljust(LIMIT), headers=headers).status_code == 202
    assert narrow.post(PATH, content=pieces(LIMIT), headers=headers).status_code == 400


def test_a_body_without_end_is_not_read_on() -> None:
    read = 0
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 100, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def reads_all(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    scope = {
        "type": "http", "method": "POST", "path": "/",
        "headers": [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")],
    }  # fmt: skip
    asyncio.run(BodyLimit(reads_all, Bounds(1000, 60.0))(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 413
    assert read == 11


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
def test_a_body_of_another_kind_is_refused(shared: Floor, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    found = shared.caller.refused("requester", "POST", PATH, content=json.dumps(body()).encode(), headers=headers)
    assert found == (415, "unsupported-media-type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"])
def test_json_by_its_other_names_is_read(shared: Floor, kind: str) -> None:
    content = json.dumps(body()).encode()
    answer = shared.caller.send("requester", "POST", PATH, content=content, headers={"Content-Type": kind})
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"served_model": }',
        b"\xff\xfe\x00",
        b"\x80abc",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"n": ' + b"1" * 5000 + b"}",
        b"{} {}",
        b"'single'",
    ],
    ids=["open", "no value", "bad utf-16", "bad utf-8", "deep list", "deep object", "long number", "two", "quotes"],
)
@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/jobs"])
def test_malformed_json_is_a_400(shared: Floor, content: bytes, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert shared.caller.refused("admin", "POST", path, content=content, headers=headers) == (400, "bad-request")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'"text"', b"42", b"true", b"NaN", b"{}"])
def test_json_of_another_shape_is_a_422(shared: Floor, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert shared.caller.refused("admin", "POST", PATH, content=content, headers=headers) == (422, "unprocessable")


BAD_TEXTS = {
    "nul": '"a\\u0000b"', "half a pair": '"a\\ud800b"', "blank": '" \\n\\u00a0 "', "empty": '""', "number": "3",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
@pytest.mark.parametrize(
    "form",
    [
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": %s}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"prompt": "p", "completion": %s}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"prompt": %s, "completion": "c"}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p", "facts": [%s]}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p", "subject": %s}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p", "probes": [{"kind": "keep", '
        '"prompt": "p", "completion": %s}]}]}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p"}], "note": %s}',
        '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p"}], "legal_basis": %s}',
        '{"served_model": %s, "domain": "privacy", "forget": [{"passage": "p"}]}',
        '{"served_model": "people", "domain": %s, "forget": [{"passage": "p"}]}',
    ],
    ids=["passage", "completion", "prompt", "fact", "subject", "probe", "note", "basis", "model", "domain"],
)
def test_texts_that_can_not_be_stored_or_asked_are_refused(shared: Floor, form: str, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    content = (form % text).encode()
    assert shared.caller.refused("admin", "POST", PATH, content=content, headers=headers) == (422, "unprocessable")


@pytest.mark.parametrize(
    "name", [SECRET, "\\ud800", "\\u0000", "x" * 5000, ""], ids=["text", "half", "nul", "long", "none"]
)
@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("POST", PATH, '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p"}], "%s": 1}'),
        ("POST", PATH, '{"served_model": "people", "domain": "privacy", "forget": [{"passage": "p", "%s": 1}]}'),
        ("PATCH", "/v1/models/people", '{"policy": {"%s": 1}}'),
        ("PATCH", "/v1/models/people", '{"policy": {"unlearn": {"%s": 1}}}'),
        ("PATCH", "/v1/models/people", '{"policy": {"gate": {"%s": {"%s": 1}}}}'),
        ("PUT", "/v1/models/people/retain-set", '{"items": [], "%s": 1}'),
    ],
)
def test_unknown_names_are_refused_and_not_repeated(
    shared: Floor, method: str, path: str, form: str, name: str
) -> None:
    content = form.replace("%s", name).encode()
    answer = shared.caller.send("admin", method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    slug(answer)
    assert SECRET not in answer.text
    assert len(answer.text) < 2000


def test_an_unknown_name_that_could_be_a_field_is_named(shared: Floor) -> None:
    problem = shared.caller.call("requester", "POST", PATH, 422, json=body(priority=1))
    assert problem["errors"][0]["field"] == "priority"


@pytest.mark.parametrize("path", [PATH, "/v1/imports"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_compressed_bodies_are_refused_and_never_unpacked(shared: Floor, path: str, encoding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    assert shared.caller.refused("requester", "POST", path, content=bomb, headers=headers) == (415, "encoded-body")



@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/healthz", 405),
        ("POST", PATH, 401),
        ("GET", PATH, 401),
    ],
)
def test_every_answer_has_an_id_and_safe_headers(shared: Floor, method: str, path: str, status: int) -> None:
    answers = [shared.caller.client.request(method, path) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status] * 2
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2


def test_unknown_addresses_and_methods_are_problems(shared: Floor) -> None:
    client, headers = shared.caller.client, shared.caller.header("requester")
    assert slug(client.get("/nothing")) == "not-found"
    assert slug(client.get("/v1/nothing", headers=headers)) == "not-found"
    assert slug(client.get("/v1/nothing")) == "unauthorised"  # whoever has no key is not told what there is
    wrong = client.put("/v1/jobs", headers=headers)
    assert slug(wrong) == "method-not-allowed"
    assert wrong.headers["allow"]


def test_an_unexpected_error_is_answered_with_an_id_and_without_its_text(shared: Floor) -> None:
    api: FastAPI = create_app(shared.settings)

    @api.get("/boom")
    def boom() -> None:
        raise RuntimeError(SECRET)

    with TestClient(api) as client:  # raises whatever would reach the server
        answer = client.get("/boom")
    assert (answer.status_code, slug(answer)) == (500, "internal-error")
    assert SECRET not in answer.text
    assert answer.json()["incident"]
    assert answer.headers["x-request-id"]


def test_an_error_in_the_middle_of_an_answer_breaks_it_off_without_the_text(shared: Floor) -> None:
    from fastapi.responses import StreamingResponse

    api: FastAPI = create_app(shared.settings)

    def half() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError(SECRET)

    @api.get("/half")
    def broken() -> StreamingResponse:
        return StreamingResponse(half())

    with TestClient(api) as client, pytest.raises(Exception, match="noted under this id") as caught:
        client.get("/half")
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
