"""Policies: set at registration, changed field by field, refused whole when any of it makes no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.served_models.schemas import Policy
from app.served_models.service import merged
from app.tables import Audit, Job
from tests.app.service import Floor

PATH = "/v1/models/people"

SENSELESS: list[tuple[str, str]] = [
    ('{"max_requests_per_batch": 0}', "max_requests_per_batch"),
    ('{"max_requests_per_batch": 10001}', "max_requests_per_batch"),
    ('{"window_seconds": -1}', "window_seconds"),
    ('{"window_seconds": NaN}', "window_seconds"),
    ('{"window_seconds": Infinity}', "window_seconds"),
    ('{"window_seconds": 1e999}', "window_seconds"),
    ('{"due_margin_days": NaN}', "due_margin_days"),
    ('{"retain_per_forget": NaN}', "retain_per_forget"),
    ('{"retain_per_forget": 101}', "retain_per_forget"),
    ('{"require_approval": "perhaps"}', "require_approval"),
    ('{"require_approval": null}', "require_approval"),
    ('{"surprise": 1}', "surprise"),
    ('{"unlearn": {"stpes": 5}}', "unlearn"),
    ('{"unlearn": {"learning_rate": 2}}', "unlearn"),
    ('{"unlearn": {"learning_rate": NaN}}', "unlearn.learning_rate"),
    ('{"unlearn": {"learning_rate": "fast"}}', "unlearn.learning_rate"),
    ('{"unlearn": {"steps": -1}}', "unlearn"),
    ('{"unlearn": {"steps": 1.5}}', "unlearn.steps"),
    ('{"unlearn": {"objective": "gibberish"}}', "unlearn"),
    ('{"unlearn": {"method": "gibberish"}}', "unlearn"),
    ('{"unlearn": {"method": "a\\u0000b"}}', "unlearn"),
    ('{"unlearn": {"method": "\\ud800"}}', "unlearn"),
    ('{"unlearn": {"seed": 99999999999999999999}}', "unlearn"),
    ('{"unlearn": "fast"}', "unlearn"),
    ('{"unlearn": 5}', "unlearn"),
    ('{"unlearn": [1]}', "unlearn"),
    ('{"unlearn": ["ab"]}', "unlearn"),
    ('{"unlearn": null}', "unlearn"),
    ('{"gate": {"min_rs": 101}}', "gate"),
    ('{"gate": {"min_rs": NaN}}', "gate.min_rs"),
    ('{"gate": {"min_speed": 1}}', "gate"),
    ('{"gate": true}', "gate"),
]


def policy_of(floor: Floor) -> dict[str, Any]:
    return dict(floor.caller.call("requester", "GET", PATH)["policy"])


@pytest.mark.parametrize(("policy", "field"), SENSELESS)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_policy_without_sense_is_refused_by_its_field(shared: Floor, method: str, policy: str, field: str) -> None:
    before = policy_of(shared)
    path, rest = PATH, ""
    if method == "POST":
        path, rest = "/v1/models", json.dumps(shared.registration("fresh"))[1:-1] + ", "
    content = f'{{{rest}"policy": {policy}}}'.encode()
    headers = {"Content-Type": "application/json"}
    answer = shared.caller.send("operator", method, path, content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    places = [error["field"].removeprefix("policy.") for error in answer.json()["errors"]]
    assert places == [field]
    assert policy_of(shared) == before


def test_a_refusal_does_not_repeat_texts(shared: Floor) -> None:
    secret = "Ottoline Brandmayr"
    for policy in ({secret: 1}, {"unlearn": {secret: 1}}, {"gate": {secret: {secret: 1}}}):
        answer = shared.caller.send("operator", "PATCH", PATH, json={"policy": policy})
        assert answer.status_code == 422
        assert secret not in answer.text


def test_fields_left_out_stay_as_they_are(floor: Floor) -> None:
    before = policy_of(floor)
    changed = floor.caller.call(
        "operator",
        "PATCH",
        PATH,
        json={"policy": {"window_seconds": 60, "gate": {"min_rs": 90}, "unlearn": {"seed": 7}}},
    )
    after = changed["policy"]
    assert after == policy_of(floor)
    assert (after["window_seconds"], after["gate"]["min_rs"], after["unlearn"]["seed"]) == (60, 90, 7)
    after["window_seconds"], after["gate"]["min_rs"], after["unlearn"]["seed"] = (
        before["window_seconds"], before["gate"]["min_rs"], before["unlearn"]["seed"],
    )  # fmt: skip
    assert after == before
    floor.caller.call("operator", "PATCH", PATH, json={"prompt_template": "Q {prompt} A"})
    shown = floor.caller.call("requester", "GET", PATH)
    assert (shown["prompt_template"], shown["policy"]["window_seconds"]) == ("Q {prompt} A", 60)
    with floor.db.session_factory() as session:
        assert session.scalars(select(Audit.event).where(Audit.event == "model.changed")).all() == ["model.changed"] * 2


@pytest.mark.parametrize("body", [{"name": "other"}, {"base_model_path": "/x"}, {"policy": []}, {"policy": "x"}, []])
def test_nothing_else_of_a_model_can_be_changed(shared: Floor, body: Any) -> None:
    assert shared.caller.refused("operator", "PATCH", PATH, json=body) == (422, "unprocessable")


def test_a_model_that_is_not_there_is_not_changed(shared: Floor) -> None:
    assert shared.caller.refused("operator", "PATCH", "/v1/models/nobody", json={}) == (404, "not-found")


def test_a_queued_job_keeps_the_settings_it_was_made_with(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.order()
    floor.caller.call("operator", "PATCH", PATH, json={"policy": {"unlearn": {"seed": 41}, "gate": {"min_rs": 1}}})
    with floor.db.session_factory() as session:
        job = session.get_one(Job, job_id)
        assert (job.settings["unlearn"]["seed"], job.gate["min_rs"]) == (0, 85.0)


def test_what_a_policy_holds_is_what_was_kept(floor: Floor) -> None:
    """Through JSONB and back nothing changes, so that a merge starts from what is shown."""
    shown = Policy.model_validate(policy_of(floor))
    assert shown == Policy.model_validate(floor.model().policy) == Policy()


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"x": {"p": 1, "q": 1}}}, {"a": {"x": {"q": 2}}}, {"a": {"x": {"p": 1, "q": 2}}}),
    ],
)
def test_merging_goes_field_by_field_and_leaves_both_alone(old: Any, new: Any, both: Any) -> None:
    kept = json.dumps([old, new])
    assert merged(old, new) == both
    assert json.dumps([old, new]) == kept
