"""The operator's standing retain set: put whole, and erasure wins over it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.tables import Audit, Example
from grail.types import Role
from tests.app.service import Floor
from tests.fixtures.served import question

MODEL = "/v1/models/people"
PATH = f"{MODEL}/retain-set"


def item(number: int, subject: str = "things", domain: str = "privacy", **more: Any) -> dict[str, Any]:
    return {"domain": domain, "subject": subject, **question(number), **more}


def put(floor: Floor, *items: dict[str, Any], expect: int = 200) -> Any:
    return floor.caller.call("operator", "PUT", PATH, expect, json={"items": list(items)})


def standing(floor: Floor) -> set[str]:
    with floor.db.session_factory() as session:
        return {row.content.prompt for row in session.scalars(select(Example).where(Example.standing))}


def prompts(*numbers: int) -> set[str]:
    return {question(number)["prompt"] for number in numbers}


def test_a_put_replaces_the_whole_set_and_says_what_became_of_it(floor: Floor) -> None:
    assert put(floor, item(1), item(2)) == {"added": 2, "kept": 0, "removed": 0, "refused_erased": 0}
    assert put(floor, item(2), item(3), item(4)) == {"added": 2, "kept": 1, "removed": 1, "refused_erased": 0}
    assert standing(floor) == prompts(2, 3, 4)
    assert put(floor) == {"added": 0, "kept": 0, "removed": 3, "refused_erased": 0}
    assert standing(floor) == set()
    assert put(floor, item(2)) == {"added": 1, "kept": 0, "removed": 0, "refused_erased": 0}
    assert standing(floor) == prompts(2)


def test_the_same_item_twice_counts_once_whatever_its_spaces_and_case(floor: Floor) -> None:
    again = item(1) | {"prompt": "  WHERE is   thing 1? "}
    assert put(floor, item(1), again)["added"] == 1
    assert put(floor, again) == {"added": 0, "kept": 1, "removed": 0, "refused_erased": 0}


def test_counts_are_shown_and_texts_are_not(floor: Floor) -> None:
    put(floor, item(1, "a"), item(2, "a"), item(3, "b"), item(4, "w", "copyright"), {**passage("c"), "subject": "a"})
    for role in ("operator", "officer", "admin"):
        shown = floor.caller.call(role, "GET", PATH)
        assert shown == {"items": {"privacy": 4, "copyright": 1}, "subjects": {"privacy": 2, "copyright": 1}}


def test_general_data_stand_beside_the_others_and_are_counted_apart(floor: Floor) -> None:
    put(floor, item(1), item(2, "tasks", "general", probes=[{"prompt": "p", "completion": "c"}]))
    shown = floor.caller.call("operator", "GET", PATH)
    assert shown == {"items": {"privacy": 1, "general": 1}, "subjects": {"privacy": 1, "general": 1}}
    assert put(floor, item(2, "tasks", "general")) == {"added": 0, "kept": 1, "removed": 1, "refused_erased": 0}


def test_erasure_wins_over_general_data_too(floor: Floor) -> None:
    put(floor, item(1, "tasks", "general"), item(2, "tasks", "general"))
    floor.ask(1)
    assert prompts(1) & standing(floor) == set()
    assert put(floor, item(1, "tasks", "general"))["refused_erased"] == 1


def test_nobody_asks_to_forget_general_data(shared: Floor) -> None:
    body = {"served_model": "people", "domain": "general", "forget": [question(7)]}
    assert shared.caller.refused("requester", "POST", "/v1/requests", json=body) == (422, "unprocessable")


def passage(text: str) -> dict[str, Any]:
    return {"domain": "privacy", "subject": "s", "passage": text}


def test_probes_come_with_their_item_and_leave_with_it(floor: Floor) -> None:
    probe = {"prompt": "In other words?", "completion": "In place 1.", "facts": ["place 1"]}
    put(floor, item(1, probes=[probe], facts=["place 1"]))
    with floor.db.session_factory() as session:
        parent, child = session.scalars(select(Example).order_by(Example.role)).all()
        assert (parent.role, parent.standing, parent.content.facts) == (Role.ITEM, True, ("place 1",))
        assert (child.role, child.standing, child.parent_id) == (Role.PARAPHRASE, False, parent.id)
        assert (child.content.subject, child.subject_index) == ("things", parent.subject_index)
    assert put(floor)["removed"] == 1
    assert standing(floor) == set()


def test_many_items_are_written_in_parts(floor: Floor) -> None:
    items = [item(number, f"s{number % 7}") for number in range(1203)]
    assert put(floor, *items)["added"] == 1203
    assert floor.caller.call("operator", "GET", PATH)["items"] == {"privacy": 1203}


def test_what_is_being_forgotten_is_left_out_and_counted(floor: Floor) -> None:
    floor.ask(1)
    assert put(floor, item(1), item(2)) == {"added": 1, "kept": 0, "removed": 0, "refused_erased": 1}
    assert standing(floor) == prompts(2) | {question(901)["prompt"]}


def test_an_erasure_takes_an_item_out_and_its_withdrawal_brings_it_back(floor: Floor) -> None:
    put(floor, item(1), item(2))
    asked = floor.ask(1)
    assert prompts(1) & standing(floor) == set()
    floor.caller.call("requester", "DELETE", f"/v1/requests/{asked}")
    assert standing(floor) == prompts(1, 2)


def test_what_the_operator_took_out_meanwhile_does_not_come_back_with_a_withdrawal(floor: Floor) -> None:
    put(floor, item(1), item(2))
    asked = floor.ask(1)
    put(floor, item(2))  # the set is replaced whole: item 1 is no longer wanted
    floor.caller.call("requester", "DELETE", f"/v1/requests/{asked}")
    assert standing(floor) == prompts(2)


def test_what_the_operator_still_wants_comes_back_with_a_withdrawal(floor: Floor) -> None:
    put(floor, item(1), item(2))
    asked = floor.ask(1)
    assert put(floor, item(1), item(2))["refused_erased"] == 1
    floor.caller.call("requester", "DELETE", f"/v1/requests/{asked}")
    assert standing(floor) == prompts(1, 2)


def test_items_of_requests_are_not_the_operators_to_replace(floor: Floor) -> None:
    body = {"served_model": "people", "domain": "privacy", "retain": [question(5)]}
    floor.caller.call("requester", "POST", "/v1/requests", 202, json=body)
    put(floor, item(1))
    assert put(floor)["removed"] == 1
    assert standing(floor) == prompts(5)


def test_a_text_longer_than_the_context_is_refused_with_its_place(floor: Floor) -> None:
    """One that slipped in would fail every job that draws it."""
    long = " ".join(["word"] * 70)
    probe = {"prompt": "p", "completion": long}
    put(floor, item(1))
    problem = put(floor, item(2), passage(long), item(3, probes=[probe]), expect=422)
    assert problem["type"].endswith("text-too-long")
    assert [error["field"] for error in problem["errors"]] == ["items.1", "items.2.probes.0"]
    assert "more than the model's context of 64" in problem["errors"][0]["problem"]
    assert standing(floor) == prompts(1)


def test_without_a_tokenizer_nothing_is_taken(floor: Floor) -> None:
    (floor.base / "tokenizer.json").unlink()
    assert put(floor, item(1), expect=503)["type"].endswith("tokeniser-missing")
    assert standing(floor) == set()


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"subject": "s", "passage": "p"}, "items.0.domain"),
        ({"domain": "GENERAL", "subject": "s", "passage": "p"}, "items.0.domain"),
        ({"domain": "secrets", "subject": "s", "passage": "p"}, "items.0.domain"),
        ({"domain": "privacy", "passage": "p"}, "items.0.subject"),
        ({"domain": "privacy", "subject": "s"}, "items.0"),
        ({"domain": "privacy", "subject": "s", "prompt": "p"}, "items.0"),
        ({"domain": "privacy", "subject": "s", "prompt": "p", "completion": "c", "passage": "x"}, "items.0"),
        ({"domain": "privacy", "subject": "s", "passage": " \n"}, "items.0.passage"),
        ({"domain": "privacy", "subject": "s", "passage": "a\x00"}, "items.0.passage"),
        ({"domain": "privacy", "subject": "s" * 201, "passage": "p"}, "items.0.subject"),
        ({"domain": "privacy", "subject": "s", "passage": "p" * 20_001}, "items.0.passage"),
        ({"domain": "privacy", "subject": "s", "passage": "p", "facts": ["f"] * 21}, "items.0.facts"),
        (
            {"domain": "privacy", "subject": "s", "passage": "p", "probes": [{"prompt": "p"}]},
            "items.0.probes.0.completion",
        ),
        ({"domain": "privacy", "subject": "s", "passage": "p", "standing": True}, "items.0.standing"),
    ],
)
def test_each_item_is_checked_and_the_place_is_named(shared: Floor, entry: dict[str, Any], field: str) -> None:
    problem = put(shared, entry, expect=422)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_too_many_items_are_refused_by_their_number(shared: Floor) -> None:
    entry = json.dumps({"domain": "privacy", "subject": "s", "passage": "p"})
    content = '{"items": [' + ",".join([entry] * 20_001) + "]}"
    headers = {"Content-Type": "application/json"}
    answer = shared.caller.send("operator", "PUT", PATH, content=content.encode(), headers=headers)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["items"]


def test_a_put_is_audited_in_numbers(floor: Floor) -> None:
    put(floor, item(1), item(2))
    with floor.db.session_factory() as session:
        leaf = json.loads(session.scalars(select(Audit.leaf).where(Audit.event == "retain_set.put")).one())
    fields = {"added": 2, "kept": 0, "removed": 0, "refused_erased": 0}
    assert leaf["fields"] == {**fields, "key_id": str(floor.caller.who["operator"].key_id)}


def test_a_set_of_a_model_that_is_not_there(shared: Floor) -> None:
    assert shared.caller.refused("operator", "PUT", "/v1/models/nobody/retain-set", json={"items": []})[0] == 404
