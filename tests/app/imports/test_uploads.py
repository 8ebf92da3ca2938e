"""Imports over HTTP: what is taken and what is refused, and that they are nobody else's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.imports import spool
from app.main import create_app
from app.tables import Idempotency, Import
from tests.app.imports.importing import JSONL, PATH, WRONG, Imports, row
from tests.app.service import slug


def test_a_repeated_upload_is_one_import(imports: Imports) -> None:
    content = json.dumps(row(1))
    first = imports.send(content, **{"Idempotency-Key": "k"})
    again = imports.send(content, **{"Idempotency-Key": "k"})
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert (imports.count(Import), len(list(imports.directory.iterdir()))) == (1, 1)
    for other, query in ((json.dumps(row(2)), ""), (content, "?partial=true")):
        answer = imports.send(other, query=query, **{"Idempotency-Key": "k"})
        assert slug(answer) == "idempotency-key-reused"
    assert (imports.count(Idempotency), len(list(imports.directory.iterdir()))) == (1, 1)


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({"Content-Type": "application/json"}, "", (415, "unsupported-import")),
        ({"Content-Type": "text/plain"}, "", (415, "unsupported-import")),
        ({"Content-Type": "text/csv"}, "?form=jsonl", (415, "unsupported-import")),
        ({}, "?form=xml", (422, "unprocessable")),
        ({}, "?partial=perhaps", (422, "unprocessable")),
        ({"Authorization": "Bearer none"}, "", (401, "unauthorised")),
    ],
)
def test_what_is_no_import_is_refused_and_leaves_nothing(
    imports: Imports, headers: dict[str, str], query: str, expected: tuple[int, str]
) -> None:
    headers = {**imports.floor.caller.header("requester"), **JSONL, **headers}
    answer = imports.floor.caller.client.post(PATH + query, content=json.dumps(row(1)), headers=headers)
    assert (answer.status_code, slug(answer)) == expected
    assert not imports.directory.exists() or list(imports.directory.iterdir()) == []
    assert imports.count(Import) == 0


def test_an_empty_file_is_refused(imports: Imports) -> None:
    assert slug(imports.send(b"")) == "bad-request"
    assert list(imports.directory.iterdir()) == []


@pytest.fixture
def narrow(imports: Imports, settings: Settings) -> Iterator[TestClient]:
    bounds = {"max_body_bytes": 1000, "max_import_bytes": 5000}
    with TestClient(create_app(settings.model_copy(update=bounds)), raise_server_exceptions=False) as client:
        yield client


def pieces(total: int) -> Iterator[bytes]:
    for at in range(0, total, 500):
        yield b" " * min(500, total - at)


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_has_a_bound_of_its_own(imports: Imports, narrow: TestClient, declared: bool) -> None:
    headers = imports.floor.caller.header("requester") | JSONL
    body: Callable[[int], Any] = (lambda size: b" " * size) if declared else pieces
    assert narrow.post(PATH, content=body(5000), headers=headers).status_code == 202
    answer = narrow.post(PATH, content=body(5001), headers=headers)
    assert (answer.status_code, slug(answer), answer.json()["limit_bytes"]) == (413, "too-large", 5000)
    assert len(list(imports.directory.iterdir())) == 1


def test_a_full_disk_leaves_nothing(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_to_disk", full)
    assert slug(imports.send(json.dumps(row(1)))) == "storage-full"
    assert list(imports.directory.iterdir()) == []


def test_imports_are_their_owners_and_of_those_who_run_the_service(imports: Imports) -> None:
    import_id = imports.bring(WRONG)
    imports.run(import_id)
    for path in (f"{PATH}/{import_id}", f"{PATH}/{import_id}/errors", f"{PATH}/{uuid.uuid4()}"):
        assert imports.floor.caller.refused("other", "GET", path) == (404, "not-found")
    assert imports.floor.caller.call("other", "GET", PATH)["items"] == []
    for role in ("requester", "operator", "officer", "admin"):
        (shown,) = imports.floor.caller.call(role, "GET", PATH)["items"]
        assert shown["id"] == str(import_id)


def test_imports_are_paged(imports: Imports) -> None:
    ids = [str(imports.bring(row(number))) for number in range(3)]
    first = imports.floor.caller.call("requester", "GET", PATH, params={"limit": 2})
    rest = imports.floor.caller.call("requester", "GET", PATH, params={"cursor": first["next_cursor"]})
    assert sorted(one["id"] for one in first["items"] + rest["items"]) == sorted(ids)
    assert rest["next_cursor"] is None


def test_faults_are_not_known_before_the_end(imports: Imports) -> None:
    import_id = imports.bring(row(1))
    assert imports.floor.caller.refused("requester", "GET", f"{PATH}/{import_id}/errors") == (404, "no-faults-yet")


def test_damaged_faults_are_not_shown(imports: Imports) -> None:
    import_id = imports.bring(WRONG)
    imports.run(import_id)
    with imports.db.session_factory() as session:
        digest = session.scalars(select(Import.errors_digest)).one()
    path = imports.settings.artifacts_dir / str(digest)[:2] / str(digest)
    path.write_bytes(path.read_bytes() + b"x")
    assert imports.floor.caller.refused("requester", "GET", f"{PATH}/{import_id}/errors") == (500, "blob-damaged")
