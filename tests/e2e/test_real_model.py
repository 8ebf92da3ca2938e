"""The same path once with the real 135M model and the shipped adapter, on a small batch and the default policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.facts import EXAMPLES, Fact, demo_facts, subjects
from cli.stack import Stack
from grail.model.bundled import ModelMissing, bundled_model
from tests.e2e.service import Service

ADAPTER = EXAMPLES / "adapter"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the demo's model."""
    try:
        base = bundled_model()
    except ModelMissing as missing:
        pytest.skip(f"the real model is not there: {missing}")
    place = tmp_path_factory.mktemp("real")
    environment = {"GRAIL_MODEL_ROOTS": f'["{base.parent}", "{EXAMPLES}"]'}
    with Stack(environment, data_dir=place, fsync=False) as stack, Service(stack) as opened:
        body = {"name": "real", "base_model_path": str(base), "adapter_path": str(ADAPTER)}
        opened.call("operator", "POST", "/v1/models", 201, json=body)
        yield opened
    stack.destroy()


def request_of(facts: list[Fact]) -> dict[str, Any]:
    """Forget what is to be forgotten of one subject, without probes; keep the rest."""
    sides: dict[str, list[dict[str, Any]]] = {"forget": [], "retain": []}
    for fact in facts:
        sides[fact.segment].append({**fact.as_item(), "probes": []})
    return {"served_model": "real", "domain": facts[0].domain, **sides}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_real_model_forgets_two_subjects_and_keeps_what_is_to_stay(real: Service) -> None:
    facts = demo_facts()
    for domain in ("privacy", "copyright"):
        name = subjects(facts, domain)[0]
        real.call("requester", "POST", "/v1/requests", 202, json=request_of([f for f in facts if f.subject == name]))
    others = [f for d in ("privacy", "copyright") for f in facts if f.subject in subjects(facts, d)[1:3]]
    standing = [{"domain": f.domain, **f.as_item(), "probes": []} for f in others if f.segment == "retain"]
    real.call("operator", "PUT", "/v1/models/real/retain-set", json={"items": standing})

    job = real.call("operator", "POST", "/v1/jobs", 202, json={"served_model": "real"})
    ended = real.job_ended(job["id"], seconds=1400)
    failed = [check for check in (ended["verdict"] or {}).get("checks", []) if not check["ok"]]
    assert ended["state"] == "published", (ended["error"], failed)

    report = real.call("officer", "GET", ended["report"])
    assert "de-quantised" in report["model"]["note"]
    for domain in ("privacy", "copyright"):
        forget, retain = report["metrics"][domain]["forget"], report["metrics"][domain]["retain"]
        assert forget["success"]["before"]["value"] < 5.0  # it knew the facts
        assert forget["fact_in_answer"]["after"]["value"] <= 20.0  # of five, at most one still slips out
        assert retain["fact_in_answer"]["after"]["value"] >= 80.0
    adapter = next((Path(real.stack.data_dir) / "adapters").glob("real-v000002-*"))
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    }  # fmt: skip
