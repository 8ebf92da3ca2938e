"""Adapter versions over HTTP: read, downloaded with a receipt, activated, acknowledged by replicas."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from app.adapters import service
from app.adapters.schemas import Activate
from app.db import transaction
from app.tables import Adapter, AdapterDownload, Audit, Replica
from tests.app.service import BAD, Floor, slug, until_blocked

MODEL = "/v1/models/people"
WHY = "the new version answers nonsense in production"


def path_of(version: int, rest: str = "") -> str:
    return f"{MODEL}/adapters/{version}{rest}"


def directory_of(floor: Floor, version: int) -> Path:
    with floor.db.session_factory() as session:
        return Path(session.scalars(select(Adapter.directory).where(Adapter.version == version)).one())


def alias(floor: Floor) -> tuple[int, int]:
    """(active version, revision)."""
    shown = floor.caller.call("requester", "GET", MODEL)
    return shown["active_adapter"]["version"], shown["alias_revision"]


@pytest.fixture
def two(floor: Floor) -> Floor:
    """Version 1 is superseded by version 2."""
    floor.ask(1)
    floor.work()
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]
    return floor


# Read


def test_versions_are_listed_newest_first_and_shown_with_their_manifests(two: Floor) -> None:
    first, second = (two.caller.call("operator", "GET", path_of(version)) for version in (1, 2))
    assert (first["parent"], second["parent"]) == (None, 1)
    assert first["superseded_at"] and not second["superseded_at"]
    assert second["job_id"] and second["published_at"]
    for shown in (first, second):
        on_disk = json.loads((directory_of(two, shown["version"]) / "manifest.json").read_text())
        assert shown["manifest"] == on_disk
        assert shown["digest"] == on_disk["digest"]
        assert shown["name"].endswith(shown["digest"][:8])


def test_pages_of_versions_follow_each_other(floor: Floor) -> None:
    for number in range(1, 4):
        floor.ask(number)
        floor.work()
    seen, cursor = [], {}
    for expected in (2, 2):
        page = floor.caller.call("requester", "GET", f"{MODEL}/adapters", params={"limit": 2, **cursor})
        assert len(page["items"]) == expected
        seen += [item["version"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert seen == [4, 3, 2, 1]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "٣", "9" * 10, "%00"])
def test_a_foreign_cursor_is_refused(shared: Floor, cursor: str) -> None:
    found = shared.caller.refused("requester", "GET", f"{MODEL}/adapters?cursor={cursor}")
    assert found == (400, "bad-request")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models/nobody/adapters", (404, "not-found")),
        ("/v1/models/nobody/adapters/1", (404, "not-found")),
        (path_of(99), (404, "not-found")),
        (path_of(99, "/download"), (404, "not-found")),
        (path_of(0), (422, "unprocessable")),
        (path_of(2**31), (422, "unprocessable")),
        (f"{MODEL}/adapters/one", (422, "unprocessable")),
        (f"{MODEL}/adapters?limit=0", (422, "unprocessable")),
        (f"{MODEL}/adapters?limit=201", (422, "unprocessable")),
        ("/v1/models/%00/adapters", (422, "unprocessable")),
        ("/v1/models/a%0a/adapters", (422, "unprocessable")),
        ("/v1/models/%ff/adapters/1", (422, "unprocessable")),
        (f"{MODEL}/adapters/1/download?reason={'r' * 2001}", (422, "unprocessable")),
        (f"{MODEL}/adapters/1/download?reason=%00", (422, "unprocessable")),
    ],
)
def test_what_is_not_there_or_makes_no_sense(shared: Floor, path: str, expected: tuple[int, str]) -> None:
    assert shared.caller.refused("admin", "GET", path) == expected


# Downloaded


def receipts(floor: Floor) -> list[tuple[int, uuid.UUID, str]]:
    with floor.db.session_factory() as session:
        rows = session.execute(
            select(Adapter.version, AdapterDownload.key_id, AdapterDownload.digest)
            .join(Adapter, Adapter.id == AdapterDownload.adapter_id)
            .order_by(AdapterDownload.id)
        )
        return [tuple(row) for row in rows]


def test_a_download_is_the_version_and_leaves_a_receipt(two: Floor) -> None:
    answer = two.caller.send("requester", "GET", path_of(2, "/download"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-tar"
    assert int(answer.headers["content-length"]) == len(answer.content)
    shown = two.caller.call("requester", "GET", path_of(2))
    assert answer.headers["etag"] == f'"{shown["digest"]}"'
    assert f"{shown['name']}.tar" in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        inside = {m.name.split("/")[1]: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
    assert inside == {path.name: path.read_bytes() for path in directory_of(two, 2).iterdir()}
    assert receipts(two) == [(2, two.caller.who["requester"].key_id, shown["digest"])]
    with two.db.session_factory() as session:
        leaf = session.scalars(select(Audit.leaf).where(Audit.event == "adapter.downloaded")).one()
        assert str(two.caller.who["requester"].key_id).encode() in leaf


def test_a_download_holds_one_connection(two: Floor) -> None:
    """With a second one per call, as many callers as there are connections would wait for each other for ever."""
    engine = two.caller.client.app.state.db.engine  # type: ignore[attr-defined]
    out = most = 0

    def taken(*_: Any) -> None:
        nonlocal out, most
        out += 1
        most = max(most, out)

    def given_back(*_: Any) -> None:
        nonlocal out
        out -= 1

    event.listen(engine, "checkout", taken)
    event.listen(engine, "checkin", given_back)
    assert two.caller.send("requester", "GET", path_of(2, "/download")).status_code == 200
    assert (out, most) == (0, 1)


@pytest.mark.parametrize("role", ["requester", "operator"])
def test_a_superseded_version_is_not_handed_out(two: Floor, role: str) -> None:
    for params in ({}, {"reason": WHY}):
        found = two.caller.refused(role, "GET", path_of(1, "/download"), params=params)
        assert found == (409, "superseded")
    assert receipts(two) == []


def test_an_officer_gets_a_superseded_version_with_a_reason_only(two: Floor) -> None:
    path = path_of(1, "/download")
    assert two.caller.refused("officer", "GET", path) == (409, "superseded")
    assert two.caller.refused("officer", "GET", path, params={"reason": "too short"}) == (409, "superseded")
    assert two.caller.refused("officer", "GET", path, params={"reason": "x" + " " * 20}) == (409, "superseded")
    assert receipts(two) == []
    assert two.caller.send("officer", "GET", path, params={"reason": WHY}).status_code == 200
    assert [version for version, _, _ in receipts(two)] == [1]


def test_rejected_versions_are_for_operators_and_officers(floor: Floor) -> None:
    floor.ask(1)
    floor.work(BAD)
    assert floor.versions() == [(2, "rejected", False), (1, "published", True)]
    assert floor.caller.refused("requester", "GET", path_of(2, "/download")) == (403, "forbidden")
    for role in ("operator", "officer", "admin"):
        assert floor.caller.send(role, "GET", path_of(2, "/download")).status_code == 200


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"])
def test_a_version_damaged_on_disk_is_neither_handed_out_nor_activated(floor: Floor, file: str) -> None:
    path = directory_of(floor, 1) / file
    path.write_bytes(path.read_bytes()[:-3])
    answer = floor.caller.send("operator", "GET", path_of(1, "/download"))
    assert (answer.status_code, slug(answer)) == (500, "version-damaged")
    assert file in answer.json()["detail"]
    assert receipts(floor) == []
    before = alias(floor)
    found = floor.caller.refused("operator", "POST", path_of(1, "/activate"), json={"reason": WHY})
    assert found == (500, "version-damaged")
    assert alias(floor) == before


# Activated


def test_activation_goes_back_only_with_an_officer_and_a_reason_and_forward_again(two: Floor) -> None:
    for role in ("operator", "admin"):
        reason = WHY if role == "operator" else "too short"
        found = two.caller.refused(role, "POST", path_of(1, "/activate"), json={"reason": reason})
        assert found == (409, "superseded")
    assert alias(two) == (2, 1)
    back = two.caller.call("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    assert (back["version"], back["alias_revision"]) == (1, 2)
    assert two.versions() == [(2, "published", False), (1, "superseded", True)]
    forward = two.caller.call("operator", "POST", path_of(2, "/activate"), json={"reason": "mended"})
    assert (forward["version"], forward["alias_revision"]) == (2, 3)


def test_the_reason_of_an_activation_is_audited_by_its_digest(two: Floor) -> None:
    import hashlib

    two.caller.call("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    with two.db.session_factory() as session:
        leaf = session.scalars(select(Audit.leaf).where(Audit.event == "adapter.activated")).one()
    fields = json.loads(leaf)["fields"]
    assert fields["reason_digest"] == hashlib.sha256(WHY.encode()).hexdigest()
    assert (fields["state"], fields["key_id"]) == ("superseded", str(two.caller.who["officer"].key_id))


def test_of_two_that_saw_the_same_revision_one_activates(two: Floor) -> None:
    seen = alias(two)[1]
    ask = {"reason": WHY, "expected_revision": seen}
    two.caller.call("officer", "POST", path_of(1, "/activate"), json=ask)
    answer = two.caller.send("officer", "POST", path_of(2, "/activate"), json=ask)
    assert (answer.status_code, slug(answer), answer.json()["alias_revision"]) == (409, "alias-moved", seen + 1)
    assert alias(two) == (1, seen + 1)


@pytest.mark.parametrize("verdict", [BAD, None])
def test_what_did_not_pass_its_gate_is_not_activated_by_anybody(floor: Floor, verdict: Any) -> None:
    floor.ask(1)
    if verdict:
        floor.work(verdict)
    else:
        job_id = floor.order()
        assert floor.claim(job_id)
        floor.write_candidate(job_id)
    for role in ("operator", "officer", "admin"):
        found = floor.caller.refused(role, "POST", path_of(2, "/activate"), json={"reason": WHY})
        assert found == (409, "not-activatable")


def test_while_a_job_is_at_work_the_alias_stays(two: Floor) -> None:
    two.ask(2)
    job_id = two.order()
    assert two.claim(job_id)
    answer = two.caller.send("officer", "POST", path_of(1, "/activate"), json={"reason": WHY})
    assert (answer.status_code, slug(answer), answer.json()["job_id"]) == (409, "job-at-work", str(job_id))
    assert alias(two) == (2, 1)


def test_an_activation_and_a_claim_at_the_same_time_do_not_pass_each_other(
    two: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim begins between the look for a job and the swap: it must wait, and then start from the new version."""
    two.ask(2)
    job_id = two.order()
    swap, claimed = service.repository.swap_alias, []
    worker = threading.Thread(target=lambda: claimed.append(two.claim(job_id)))

    def swap_while_claiming(session: Any, *args: Any, **named: Any) -> bool:
        worker.start()
        until_blocked(two.db, lambda: bool(claimed))
        assert not claimed, "the claim went on while the alias was being moved"
        return swap(session, *args, **named)

    monkeypatch.setattr(service.repository, "swap_alias", swap_while_claiming)
    with transaction(two.db) as session:
        service.activate(session, "people", 1, Activate(reason=WHY), two.caller.who["officer"])
    worker.join()
    assert claimed == [1]
    job = two.caller.call("operator", "GET", f"/v1/jobs/{job_id}")
    assert job["start_adapter"]["version"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "  "},
        {"reason": "r" * 2001},
        {"reason": "a\x00b"},
        {"reason": WHY, "expected_revision": -1},
        {"reason": WHY, "expected_revision": "one"},
        {"reason": WHY, "force": True},
    ],
)
def test_an_activation_without_sense_is_refused(shared: Floor, body: dict[str, Any]) -> None:
    assert shared.caller.refused("officer", "POST", path_of(1, "/activate"), json=body) == (422, "unprocessable")
    assert alias(shared)[0] == 1


def test_an_activation_of_nothing_is_a_404(shared: Floor) -> None:
    for path in (path_of(9, "/activate"), "/v1/models/nobody/adapters/1/activate"):
        assert shared.caller.refused("officer", "POST", path, json={"reason": WHY}) == (404, "not-found")


# Acknowledged


def acknowledge(floor: Floor, replica: str, version: int, expect: int = 200, **more: Any) -> Any:
    digest = more.pop("digest", None) or floor.caller.call("operator", "GET", path_of(version))["digest"]
    body = {"version": version, "digest": digest, **more}
    return floor.caller.call("operator", "POST", f"{MODEL}/replicas/{replica}/ack", expect, json=body)


def test_replicas_say_what_they_serve_and_the_list_says_who_is_behind(two: Floor) -> None:
    assert two.caller.call("requester", "GET", f"{MODEL}/replicas") == {"items": []}
    assert acknowledge(two, "edge-b", 1)["current"] is False
    assert acknowledge(two, "edge-a", 2)["current"] is True
    listed = two.caller.call("requester", "GET", f"{MODEL}/replicas")["items"]
    assert [(r["replica_id"], r["version"], r["current"]) for r in listed] == [
        ("edge-a", 2, True),
        ("edge-b", 1, False),
    ]
    acknowledge(two, "edge-b", 2)
    listed = two.caller.call("requester", "GET", f"{MODEL}/replicas")["items"]
    assert [(r["replica_id"], r["version"], r["current"]) for r in listed] == [("edge-a", 2, True), ("edge-b", 2, True)]


def test_a_replica_that_serves_other_bytes_hears_it(two: Floor) -> None:
    right = two.caller.call("operator", "GET", path_of(2))["digest"]
    problem = acknowledge(two, "edge-a", 2, 409, digest="ab" * 32)
    assert problem["type"].endswith("digest-mismatch")
    assert problem["expected"] == right
    assert two.caller.call("requester", "GET", f"{MODEL}/replicas") == {"items": []}


@pytest.mark.parametrize(
    ("replica", "body", "status"),
    [
        ("edge", {"version": 99, "digest": "ab" * 32}, 404),
        ("edge", {"version": 0, "digest": "ab" * 32}, 422),
        ("edge", {"version": 1, "digest": "AB" * 32}, 422),
        ("edge", {"version": 1, "digest": "ab"}, 422),
        ("edge", {"version": 1}, 422),
        ("edge", {"version": 1, "digest": "ab" * 32, "name": "x"}, 422),
        ("-edge", {"version": 1, "digest": "ab" * 32}, 422),
        ("e" * 129, {"version": 1, "digest": "ab" * 32}, 422),
        ("a%20b", {"version": 1, "digest": "ab" * 32}, 422),
        ("a%00", {"version": 1, "digest": "ab" * 32}, 422),
    ],
)
def test_an_acknowledgement_without_sense_is_refused(
    shared: Floor, replica: str, body: dict[str, Any], status: int
) -> None:
    kind = {404: "not-found", 422: "unprocessable"}[status]
    path = f"{MODEL}/replicas/{replica}/ack"
    assert shared.caller.refused("operator", "POST", path, json=body) == (status, kind)
    nobody, right = "/v1/models/nobody/replicas/edge/ack", {"version": 1, "digest": "ab" * 32}
    assert shared.caller.refused("operator", "POST", nobody, json=right) == (404, "not-found")


def test_two_first_words_of_a_replica_at_the_same_time_make_one_row(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = floor.caller.call("operator", "GET", path_of(1))["digest"]
    look, looked = service.repository.replica, []

    def look_together(*args: Any) -> Replica | None:
        found = look(*args)
        looked.append(found)
        until_blocked(floor.db, lambda: len(looked) == 2)
        return found

    monkeypatch.setattr(service.repository, "replica", look_together)
    statuses: list[int] = []

    def say() -> None:
        body = {"version": 1, "digest": digest}
        statuses.append(floor.caller.send("operator", "POST", f"{MODEL}/replicas/edge/ack", json=body).status_code)

    threads = [threading.Thread(target=say) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
    with floor.db.session_factory() as session:
        assert len(session.scalars(select(Replica)).all()) == 1
