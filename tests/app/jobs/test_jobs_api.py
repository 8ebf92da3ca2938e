"""Jobs over HTTP: ordered, browsed, read, and who sees what of them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import transaction
from app.tables import Batch, Job, ServedModel
from tests.app.service import GOOD, Floor, slug
from tests.fixtures.served import question

PATH = "/v1/jobs"


def order(floor: Floor, expect: int = 202, **more: Any) -> Any:
    return floor.caller.call("operator", "POST", PATH, expect, json={"served_model": "people", **more})


def browse(floor: Floor, role: str = "operator", **params: Any) -> list[str]:
    return [job["id"] for job in floor.caller.call(role, "GET", PATH, params=params)["items"]]


def kind(problem: dict[str, Any]) -> str:
    return str(problem["type"]).rpartition(":")[2]


# Ordered


def test_an_order_makes_a_job_of_what_is_pending(floor: Floor) -> None:
    asked = floor.ask(1)
    answer = floor.caller.send("operator", "POST", PATH, json={"served_model": "people"})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"{PATH}/{made['id']}"
    assert (made["state"], made["attempts"], made["progress"]) == ("queued", 0, 0.0)
    assert made["request_ids"] == [asked]
    assert (made["report"], made["verdict"], made["candidate_adapter"]) == (None, None, None)
    assert floor.caller.call("operator", "GET", answer.headers["location"]) == made
    assert floor.caller.call("requester", "GET", f"/v1/requests/{asked}")["job_id"] == made["id"]


def test_each_obstacle_has_its_own_words_and_a_dry_run_foretells_it(floor: Floor) -> None:
    def foretold() -> str | None:
        return order(floor, 200, dry_run=True)["obstacle"]  # type: ignore[no-any-return]

    problem = order(floor, 409)
    assert kind(problem) == "nothing-pending"
    assert foretold() == f"{problem['detail']}. {problem['mend']}"

    body = {"served_model": "people", "domain": "copyright", "forget": [question(1)]}
    bare = floor.caller.call("requester", "POST", "/v1/requests", 202, json=body)["id"]
    problem = order(floor, 422)
    assert (kind(problem), problem["domains"]) == ("no-retain-data", ["copyright"])
    assert foretold() == f"{problem['detail']}. {problem['mend']}"
    floor.caller.call("requester", "DELETE", f"/v1/requests/{bare}")

    floor.ask(2)
    with transaction(floor.db) as session:
        model = session.scalars(select(ServedModel)).one()
        served, model.active_adapter_id = model.active_adapter_id, None
    problem = order(floor, 409)
    assert kind(problem) == "no-active-adapter"
    assert foretold() == f"{problem['detail']}. {problem['mend']}"
    with transaction(floor.db) as session:
        session.scalars(select(ServedModel)).one().active_adapter_id = served

    job = order(floor)
    floor.ask(3)
    problem = order(floor, 409)
    assert (kind(problem), problem["job_id"], problem["state"]) == ("job-at-work", job["id"], "queued")
    assert foretold() == f"{problem['detail']}. {problem['mend']}"


def test_a_dry_run_counts_and_writes_nothing(floor: Floor) -> None:
    one, two = floor.ask(1, 2), floor.ask(3, role="other")
    shown = order(floor, 200, dry_run=True)
    assert (shown["would_batch"], shown["forget_items"], shown["retain_items"]) == ([one, two], 3, 2)
    assert shown["reason"] == "manual"
    assert shown["tokens"] > 3 * 10
    with floor.db.session_factory() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(Batch)) == 0
    assert floor.caller.call("requester", "GET", f"/v1/requests/{one}")["state"] == "received"


def test_a_dry_run_needs_the_tokenizer_and_an_order_does_not(floor: Floor) -> None:
    floor.ask(1)
    (floor.base / "tokenizer.json").unlink()
    assert kind(order(floor, 503, dry_run=True)) == "tokeniser-missing"
    order(floor)


def test_an_unknown_model_is_answered_with_the_known_ones(shared: Floor) -> None:
    for dry_run in (False, True):
        problem = order(shared, 422, served_model="poeple", dry_run=dry_run)
        assert (kind(problem), problem["known"]) == ("unknown-served-model", ["people"])
        assert "did you mean 'people'" in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"served_model": "UPPER"}, {"served_model": "a" * 64}, {"served_model": None}, {"served_model": "a\x00"},
        {"served_model": "people", "dry_run": "perhaps"}, {"served_model": "people", "urgent": True},
    ],
)  # fmt: skip
def test_an_order_without_sense_is_refused(shared: Floor, body: dict[str, Any]) -> None:
    assert shared.caller.refused("operator", "POST", PATH, json=body) == (422, "unprocessable")


# Browsed and read


@pytest.fixture
def several(floor: Floor) -> tuple[Floor, list[str]]:
    """Three jobs, oldest first: the requester's, the other one's, both of theirs; the last one is queued."""
    floor.ask(1)
    first = floor.work()
    floor.ask(2, role="other")
    second = floor.work()
    floor.ask(3)
    floor.ask(4, role="other")
    return floor, [str(job) for job in (first, second, floor.order())]


def test_a_requester_sees_the_jobs_of_its_own_requests_only(several: tuple[Floor, list[str]]) -> None:
    floor, (first, second, third) = several
    assert browse(floor, "requester") == [third, first]
    assert browse(floor, "other") == [third, second]
    for role in ("operator", "officer", "admin"):
        assert browse(floor, role) == [third, second, first]
    missing = floor.caller.send("requester", "GET", f"{PATH}/{uuid.uuid4()}")
    others = floor.caller.send("requester", "GET", f"{PATH}/{second}")
    assert (others.status_code, slug(others), others.json()) == (404, "not-found", missing.json())


def test_of_a_shared_job_a_requester_sees_its_own_part(several: tuple[Floor, list[str]]) -> None:
    floor, (_, _, third) = several
    whole = floor.caller.call("operator", "GET", f"{PATH}/{third}")["request_ids"]
    own = floor.caller.call("requester", "GET", f"{PATH}/{third}")["request_ids"]
    others = floor.caller.call("other", "GET", f"{PATH}/{third}")["request_ids"]
    assert len(own) == len(others) == 1
    assert sorted(own + others) == whole
    floor.claim(uuid.UUID(third))
    checks = [{"name": "min_request_cus", "scope": f"request {request}", "ok": True} for request in whole]
    verdict = {"ok": True, "checks": [*GOOD["checks"], *checks]}
    floor.evaluate(uuid.UUID(third), 1, verdict)

    def scopes(role: str) -> list[str]:
        return [c["scope"] for c in floor.caller.call(role, "GET", f"{PATH}/{third}")["verdict"]["checks"]]

    assert scopes("operator") == ["privacy", *(f"request {request}" for request in whole)]
    assert scopes("requester") == ["privacy", f"request {own[0]}"]
    assert floor.caller.call("operator", "GET", f"{PATH}/{third}")["report"] == f"{PATH}/{third}/report"


def test_lists_are_narrowed_and_paged(several: tuple[Floor, list[str]]) -> None:
    floor, (first, second, third) = several
    assert browse(floor, state="queued") == [third]
    assert browse(floor, state="published") == [second, first]
    assert browse(floor, state="running") == []
    assert browse(floor, served_model="people") == [third, second, first]
    assert browse(floor, served_model="nobody") == []
    page = floor.caller.call("operator", "GET", PATH, params={"limit": 2})
    assert [job["id"] for job in page["items"]] == [third, second]
    rest = floor.caller.call("operator", "GET", PATH, params={"limit": 2, "cursor": page["next_cursor"]})
    assert ([job["id"] for job in rest["items"]], rest["next_cursor"]) == ([first], None)
    assert browse(floor, "requester", limit=1) == [third]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"limit": 0}, (422, "unprocessable")),
        ({"limit": 201}, (422, "unprocessable")),
        ({"state": "lost"}, (422, "unprocessable")),
        ({"served_model": "UPPER"}, (422, "unprocessable")),
        ({"served_model": "\x00"}, (422, "unprocessable")),
        ({"cursor": "c" * 65}, (422, "unprocessable")),
        ({"cursor": "nonsense"}, (400, "bad-cursor")),
        ({"cursor": "ä"}, (400, "bad-cursor")),
    ],
)
def test_filters_that_make_no_sense_are_refused(
    shared: Floor, params: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert shared.caller.refused("operator", "GET", PATH, params=params) == expected


@pytest.mark.parametrize("action", ["", "/cancel", "/approve", "/refuse"])
def test_ids_that_are_none_or_nobodys(shared: Floor, action: str) -> None:
    method = "POST" if action else "GET"
    body = {"reason": "a reason that is long enough"} if action == "/refuse" else None
    for job_id, expected in (("42", (422, "unprocessable")), (str(uuid.uuid4()), (404, "not-found"))):
        assert shared.caller.refused("admin", method, f"{PATH}/{job_id}{action}", json=body) == expected
