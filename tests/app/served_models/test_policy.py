"""Policies: set at registration, changed field by field, refused whole when any of it makes no sense."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import select

from app.db import transaction
from app.served_models.schemas import SETTING_WORDS, Policy
from app.served_models.service import merged
from app.tables import Audit, Job, ServedModel
from grail.config import UnlearnConfig
from tests.app.service import Floor

PATH = "/v1/models/people"
NEW_SETTINGS = {"retain_objective", "retain_source", "strategy", "options"}

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
    ('{"unlearn": {"method": "memflex", "objective": "npo"}}', "unlearn"),
    ('{"unlearn": {"options": {"beta": 1}}}', "unlearn"),
    ('{"unlearn": {"objective": "npo", "options": {"beta": NaN}}}', "unlearn.options.beta.float"),
    ('{"unlearn": {"objective": "npo", "options": {"beta": "0.1"}}}', "unlearn"),
    ('{"unlearn": {"method": "memflex", "options": {"thresholds": "a b"}}}', "unlearn"),
    ('{"unlearn": {"options": 5}}', "unlearn.options"),
    ('{"unlearn": {"strategy": "privacy>"}}', "unlearn"),
    ('{"unlearn": {"strategy": "privcy>copyright"}}', "unlearn"),
    ('{"unlearn": {"strategy": "combined>privacy"}}', "unlearn"),
    ('{"unlearn": {"strategy": "general"}}', "unlearn"),
    ('{"unlearn": [["method"]]}', "unlearn"),
    ('{"unlearn": [[1]]}', "unlearn"),
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
    assert places[0] == field
    assert len(places) == 1 or ".options." in field  # a number or a word: each says why it is neither
    assert policy_of(shared) == before


def test_a_refusal_does_not_repeat_texts(shared: Floor) -> None:
    secret = "Ottoline Brandmayr"
    slips: list[dict[str, Any]] = [{secret: 1}, {"unlearn": {secret: 1}}, {"gate": {secret: {secret: 1}}}]
    slips += [{"unlearn": {name: secret}} for name in (*SETTING_WORDS, "strategy")]
    slips += [{"unlearn": {"objective": "npo", "options": options}} for options in ({secret: 1}, {"beta": secret})]
    for policy in slips:
        answer = shared.caller.send("operator", "PATCH", PATH, json={"policy": policy})
        assert answer.status_code == 422
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("unlearn", "words"),
    [
        ({"method": "grial"}, "method is 'grial': it must be one of adversarial, ascent_kl, "),
        ({"method": "grial"}, "(did you mean grail?)"),
        ({"method": "memflex", "mask_rule": "conditioned"}, "the method memflex fixes mask_rule to frozen"),
        ({"objective": "npo", "options": {"betta": 1}}, "has no such option; known: beta"),
        ({"strategy": "a>"}, "strategy is 'a>': it must be combined, or domains with > between"),
        ({"strategy": "privcy"}, "strategy names privcy: requests are of the domains privacy, copyright"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_refusal_says_the_librarys_own_sentence(
    shared: Floor, method: str, unlearn: dict[str, Any], words: str
) -> None:
    policy = {"policy": {"unlearn": unlearn}}
    path, body = (PATH, policy) if method == "PATCH" else ("/v1/models", {**shared.registration("fresh"), **policy})
    problem = shared.caller.call("operator", method, path, 422, json=body)
    (error,) = problem["errors"]
    assert words in error["problem"] and words in problem["detail"]
    assert "Value error" not in str(problem)


def test_another_method_takes_its_presets_and_the_first_one_back_gives_the_first_policy(floor: Floor) -> None:
    first = policy_of(floor)
    ways: tuple[dict[str, Any], ...] = ({"method": "memflex"}, {"objective": "npo"}, {"method": "ascent_kl_general"})
    for way in ways:
        changed = patched(floor, way)
        assert {name: changed[name] for name in way} == way
        assert changed["learning_rate"] == (2e-3 if "objective" in way else 1e-3)
        assert patched(floor, {"method": "grail", "objective": ""}) == first["unlearn"]
    own = {"thresholds": "quantile", "mu": 0.75, "sigma": 0.25}
    assert own.items() <= patched(floor, {"method": "memflex"})["options"].items()


def test_a_value_that_was_set_stays_when_the_objective_changes(floor: Floor) -> None:
    patched(floor, {"learning_rate": 5e-4, "seed": 3})
    changed = patched(floor, {"objective": "ascent"})
    assert (changed["learning_rate"], changed["seed"], changed["forget_weight"]) == (5e-4, 3, 3.0)
    assert patched(floor, {"objective": "npo", "options": {"beta": 0.5}})["options"] == {"beta": 0.5}
    assert patched(floor, {"objective": "npo", "seed": 4})["options"] == {"beta": 0.5}
    ascent = patched(floor, {"objective": "ascent"})["options"]
    assert "beta" not in ascent, "an option of npo's own can not stay without it"
    assert patched(floor, {"learning_rate": 0})["learning_rate"] == 1e-3, "left open again"


def patched(floor: Floor, unlearn: dict[str, Any]) -> dict[str, Any]:
    answer = floor.caller.call("operator", "PATCH", PATH, json={"policy": {"unlearn": unlearn}})
    return dict(answer["policy"]["unlearn"])


def test_a_policy_of_an_older_version_still_loads_and_can_be_changed(floor: Floor) -> None:
    older = {name: value for name, value in UnlearnConfig().as_dict().items() if name not in NEW_SETTINGS}
    with transaction(floor.db) as session:
        model = session.get_one(ServedModel, floor.model().id)
        model.policy = {**Policy().model_dump(mode="json"), "unlearn": {**older, "learning_rate": 1e-4}}
    assert policy_of(floor)["unlearn"] == UnlearnConfig(learning_rate=1e-4).as_dict()
    assert patched(floor, {"seed": 2}) == UnlearnConfig(learning_rate=1e-4, seed=2).as_dict()
    floor.ask(1)
    assert floor.job(floor.order()).settings["unlearn"]["learning_rate"] == 1e-4


def test_the_document_lists_the_words_of_each_setting(shared: Floor) -> None:
    document = shared.caller.call("requester", "GET", "/openapi.json")
    shown = document["components"]["schemas"]["UnlearnConfig"]["properties"]
    assert {"memflex", "grad_diff_general"} <= set(shown["method"]["enum"])
    assert {"npo", "hinge", ""} <= set(shown["objective"]["enum"])
    for name, words in SETTING_WORDS.items():
        assert shown[name]["enum"] == list(words)
    assert "not forgotten" in shown["strategy"]["description"]
    pattern = re.compile(shown["strategy"]["pattern"])
    assert [bool(pattern.search(word)) for word in ("combined", "privacy>copyright", "a>", "A")] == [
        True, True, False, False,
    ]  # fmt: skip


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
