"""Rows become a RunSpec: all that shapes the run and nothing that must not."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.adapters.files import file_digest
from app.db import transaction
from app.inputs.service import JobInputs, load
from app.tables import Example, Job, ServedModel
from grail.config import GateConfig, UnlearnConfig
from grail.types import Role, Segment
from tests.app.service import Floor
from tests.app.weights import adapter
from tests.fixtures.served import question
from worker.translate import run_spec


def inputs_of(floor: Floor, job_id: uuid.UUID) -> JobInputs:
    with floor.db.session_factory() as session:
        found = load(session, job_id)
    assert found is not None
    return found


def test_a_run_is_what_the_job_and_its_model_say(floor: Floor) -> None:
    policy = {"unlearn": {"steps": 33, "seed": 5}, "gate": {"min_rs": 77}}
    floor.caller.call(
        "operator", "PATCH", "/v1/models/people", json={"policy": policy, "prompt_template": "Q {prompt} A"}
    )
    floor.ask(1)
    job_id = floor.order()
    floor.claim(job_id)
    spec = run_spec(inputs_of(floor, job_id))
    active = floor.caller.call("operator", "GET", "/v1/models/people/adapters/1")
    assert spec.base_model == floor.base
    assert spec.base_digest == floor.model().base_model_digest
    assert (spec.adapter.name, spec.adapter_digest) == (active["name"], active["digest"])
    assert (spec.reference_adapter, spec.reference_digest) == (None, "adapter-off")
    assert spec.prompt_template == "Q {prompt} A"
    assert spec.unlearn == UnlearnConfig(steps=33, seed=5)
    assert spec.gate == GateConfig(min_rs=77)


def test_a_reference_adapter_is_named_by_its_bytes(floor: Floor) -> None:
    reference = adapter(floor.directory / "reference", fill=b"\x3e")
    body = floor.registration("referred", reference_adapter_path=str(reference))
    floor.caller.call("operator", "POST", "/v1/models", 201, json=body)
    floor.ask(1, model="referred")
    spec = run_spec(inputs_of(floor, floor.order("referred")))
    assert spec.reference_adapter == reference
    assert spec.reference_digest == file_digest(reference / "adapter_model.safetensors")


def test_examples_are_the_members_own_and_what_the_batch_drew(floor: Floor) -> None:
    probe = {"kind": "paraphrase", "prompt": "In other words?", "completion": "In place 1.", "facts": ["place 1"]}
    kept = {"prompt": "And so?", "completion": "It stays."}
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"retain_per_forget": 9}})
    items = [{"domain": "privacy", "subject": "s", **question(50), "probes": [kept]}]
    floor.caller.call("operator", "PUT", "/v1/models/people/retain-set", json={"items": items})
    asked = floor.ask(1, forget=[question(1, probes=[probe], subject="ada", facts=["place 1"])])
    floor.ask(2, model="people", role="other", domain="copyright")
    stranger = floor.caller.call(
        "requester", "POST", "/v1/requests", 202,
        json={"served_model": "people", "domain": "privacy", "retain": [question(60)]},
    )["id"]  # fmt: skip
    found = inputs_of(floor, floor.order()).examples
    by_prompt = {example.prompt: example for example in found}
    item = by_prompt[question(1)["prompt"]]
    assert (item.request, item.segment, item.role, item.subject, item.facts) == (
        asked, Segment.FORGET, Role.ITEM, "ada", ("place 1",),
    )  # fmt: skip
    assert (by_prompt["In other words?"].parent, by_prompt["In other words?"].role) == (item.id, Role.PARAPHRASE)
    drawn = by_prompt[question(50)["prompt"]]
    assert (drawn.request, drawn.segment) == (None, Segment.RETAIN)
    assert by_prompt["And so?"].parent == drawn.id
    assert by_prompt[question(60)["prompt"]].request is None, "another's retain item serves as standing"
    assert stranger not in {example.request for example in found}
    assert {example.domain for example in found} == {"privacy", "copyright"}
    assert [example.id for example in found] == sorted(example.id for example in found)


def test_what_was_erased_after_the_batch_was_drawn_is_not_trained_on(floor: Floor) -> None:
    items = [{"domain": "privacy", "subject": "s", **question(50)}]
    floor.caller.call("operator", "PUT", "/v1/models/people/retain-set", json={"items": items})
    floor.ask(1)
    job_id = floor.order()
    assert question(50)["prompt"] in {example.prompt for example in inputs_of(floor, job_id).examples}
    floor.ask(50, role="other")
    assert question(50)["prompt"] not in {example.prompt for example in inputs_of(floor, job_id).examples}


@pytest.mark.parametrize("changed", [{"steps": -5}, {"objective": "gibberish"}, {"surprise": 1}])
def test_settings_that_make_no_sense_raise_before_anything_is_computed(floor: Floor, changed: dict[str, Any]) -> None:
    floor.ask(1)
    job_id = floor.order()
    with transaction(floor.db) as session:
        job = session.get_one(Job, job_id)
        job.settings = {**job.settings, "unlearn": {**job.settings["unlearn"], **changed}}
    with pytest.raises((ValueError, TypeError)):
        run_spec(inputs_of(floor, job_id))


def test_texts_are_in_no_repr(floor: Floor) -> None:
    floor.ask(1)
    found = inputs_of(floor, floor.order())
    assert "Thing" not in repr(found)
    assert "Thing" not in repr(run_spec(found))
    assert "Thing" in str([asdict(example) for example in found.examples])


def test_a_job_that_never_was_has_no_inputs(floor: Floor) -> None:
    with floor.db.session_factory() as session:
        assert load(session, uuid.uuid4()) is None
        assert session.scalars(select(Example)).all() == []
        assert Path(session.scalars(select(ServedModel.base_model_path)).one()) == floor.base
