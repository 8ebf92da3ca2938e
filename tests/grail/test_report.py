"""The report document: its keys, its figures, and that no word of any request is in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785
from jsonschema import Draft202012Validator, FormatChecker
from pytest import fixture, mark, raises

from app.reports.schemas import json_schema
from grail.config import GateConfig, UnlearnConfig
from grail.evaluate import EvalResult, compare
from grail.gate import decide
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import Estimate, mean_of
from grail.model.load import LoadedModel
from grail.report import ADAPTER_OFF, blind, cell, document, environment, request_outcome
from grail.train import TrainLog
from grail.types import Example, Role, Segment
from tests.fixtures.tiny_model import tiny_adapter_directory, tiny_base_directory, tiny_model

__all__ = ["tiny_adapter_directory", "tiny_base_directory", "tiny_model"]

CANARY = "Quetzal-Marmalade"
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "report_document.json"
GATE = GateConfig()
ENVIRONMENT = {
    "python": "3.11", "torch": "2", "transformers": "5", "peft": "0", "platform": "Linux x86_64", "threads": 1,
    "precision": "fp32", "version": "0.1.0",
}  # fmt: skip


def make_example(number: int, segment: Segment, role: Role = Role.ITEM, parent: str | None = None) -> Example:
    """Every text of it holds the canary."""
    text = f"{CANARY} {segment} {role} {number}"
    return Example(
        f"{segment}-{role}-{number:02}", "privacy", segment, f"{CANARY} subject {number}", f"ask {text}", f"say {text}",
        role, (f"fact {text}",), parent, "req-1",
    )  # fmt: skip


def score(number: int, base: float, *, fact: bool) -> ExampleScore:
    wobble = (number * 37 % 11) / 100
    return ExampleScore(base - wobble, 2.0 + wobble, 50.0 + number, 40.0 + number, fact, f"{CANARY} answer {number}")


def make_result(subjects: int = 12) -> EvalResult:
    examples = [make_example(n, segment) for segment in Segment for n in range(subjects)]
    examples += [make_example(n, Segment.FORGET, Role.PARAPHRASE, f"forget-item-{n:02}") for n in range(subjects)]
    examples += [make_example(0, Segment.FORGET, Role.MEASURE, "forget-item-00")]
    numbered = list(enumerate(examples))
    before = {e.id: score(n, 1.0, fact=True) for n, e in numbered}
    after = {e.id: score(n, 1.0 if e.segment is Segment.RETAIN else 0.5, fact=False) for n, e in numbered}
    reference = {e.id: score(n, 0.5, fact=False) for n, e in numbered}
    reference["forget-item-00"] = score(0, 1.0, fact=True)
    return compare(examples, before, after, reference, GATE, held_out={"retain-item-00"})


def make_document(result: EvalResult, **changed: Any) -> dict[str, Any]:
    extra = {"note": f"{CANARY} note", "subject_reference": CANARY, "path": f"/srv/{CANARY}"}
    adapter = {"version": 1, "name": "m-v000001-aa", "digest": "aa", **extra}
    parts: dict[str, Any] = {
        "job": {
            "id": "job-1", "served_model": "m", "created_at": "2026-01-01T00:00:00Z", "started_at": None,
            "finished_at": None, "attempts": 1, "timings_seconds": {"unlearn": 1.5}, "settings": extra,
        },
        "requests": [
            {"id": "req-1", "domain": "privacy", "received_at": "2026-01-01T00:00:00Z", "due_at": None,
             "legal_basis": "GDPR Art. 17", **extra},
        ],
        "model": {
            "base_path_name": f"/srv/{CANARY}/tiny", "base_digest": "bb", "note": "made for a test",
            "start_adapter": adapter, "candidate_adapter": adapter, "reference": ADAPTER_OFF, "template": CANARY,
        },
        "config": UnlearnConfig(),
        "result": result,
        "verdict": decide(result, GATE),
        "regions": None,
        "log": TrainLog(2, 1, None, [{"step": 1, "forget": 1.0}], [{"step": 1, "chs": 50.0}], 2),
        "environment": {**ENVIRONMENT, "hostname": CANARY},
        "held_out": {"retain-item-00"},
        **changed,
    }  # fmt: skip
    return document(**parts)


@fixture(scope="module")
def made() -> dict[str, Any]:
    return make_document(make_result())


def test_not_one_word_of_a_request_is_in_the_document(made: Mapping[str, Any]) -> None:
    text = json.dumps(made, ensure_ascii=False).casefold()
    for word in re.split(r"\W+", CANARY.casefold()):
        assert word not in text


def test_the_keys_are_the_schemas_and_the_same_as_in_the_renderers_sample(made: Mapping[str, Any]) -> None:
    sample = json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert list(made) == list(sample)
    for part in ("job", "model", "method", "gate", "environment"):
        assert set(made[part]) == set(sample[part]), part
    assert set(made["requests"][0]) == set(sample["requests"][0])
    assert set(made["requests"][0]["metrics"]) == set(sample["requests"][0]["metrics"])
    assert set(made["gate"]["checks"][0]) == set(sample["gate"]["checks"][0])
    assert set(made["examples"][0]) == set(sample["examples"][0])
    assert set(made["examples"][0]["after"]) == set(sample["examples"][0]["after"])
    assert set(made["data"]["privacy"]) == set(sample["data"]["privacy"])
    assert set(made["summary"]["mean"]["after"]) == set(sample["summary"]["mean"]["after"])
    assert set(made["metrics"]["privacy"]["forget"]) == set(sample["metrics"]["privacy"]["forget"])
    found, wanted = (d["metrics"]["privacy"]["forget"]["success"]["after"] for d in (made, sample))
    assert list(found) == list(wanted)


def endless() -> EvalResult:
    """A candidate so surprised by the forget items that their perplexity is beyond all numbers."""
    examples = [make_example(n, segment) for segment in Segment for n in range(12)]
    known = {e.id: score(0, 1.0, fact=True) for e in examples}
    gone = {e.id: ExampleScore(0.0, 800.0, 0.0) for e in examples}
    return compare(examples, known, gone, {e.id: score(0, 0.5, fact=False) for e in examples}, GATE)


def known_by_the_base() -> EvalResult:
    """Nothing to certify: the reference knows every forget item."""
    examples = [make_example(n, segment) for segment in Segment for n in range(3)]
    scores = {e.id: score(0, 1.0, fact=True) for e in examples}
    return compare(examples, scores, scores, scores, GATE)


@mark.parametrize(
    ("result", "changed"),
    [(make_result(), {}), (make_result(3), {"limits": ["One more."]}), (endless(), {}),
     (known_by_the_base(), {"log": None}), (compare([], {}, {}, {}, GATE), {"log": None, "requests": []})],
    ids=["whole", "small", "endless", "in base", "empty"],
)  # fmt: skip
def test_whatever_was_measured_fits_the_published_schema(result: EvalResult, changed: dict[str, Any]) -> None:
    found = make_document(result, verdict=decide(result, GATE), **changed)
    Draft202012Validator(json_schema(), format_checker=FormatChecker()).validate(found)


def test_it_is_canonical_json_as_it_stands(made: dict[str, Any]) -> None:
    assert json.loads(rfc8785.dumps(made)) == made


def test_it_can_be_recomputed_from_its_own_examples(made: Mapping[str, Any]) -> None:
    group = [
        e for e in made["examples"] if (e["segment"], e["role"]) == ("forget", "item") and e["outcome"] != "in_base"
    ]
    assert [e["id"] for e in group] == sorted(e["id"] for e in group)
    again = mean_of([e["after"]["nll"] for e in group], [e["subject_id"] for e in group])
    shown = made["metrics"]["privacy"]["forget"]["perplexity"]["after"]
    assert again.interval is not None
    assert shown["value"] == math.exp(again.value or 0)
    assert shown["interval"] == [math.exp(end) for end in again.interval]
    assert (shown["n"], shown["subjects"], shown["note"]) == (11, 11, None)


def test_counts(made: Mapping[str, Any]) -> None:
    assert made["data"]["privacy"] == {
        "forget_items": 12, "forget_items_in_base": 1, "retain_items": 12, "paraphrases": 12, "keep": 0, "measure": 1,
        "held_out": 1, "erased_earlier": 0,
    }  # fmt: skip
    request = made["requests"][0]
    assert (request["forget_items"], request["in_base"], request["retain_items"], request["probes"]) == (12, 1, 12, 13)
    assert request["outcome"] == "forgotten in part"
    assert request["checks"] and all(check["scope"] == "request req-1" for check in request["checks"])


def test_subjects_are_blinded_by_job() -> None:
    assert blind("Ann", "job-1") == blind("Ann", "job-1") != blind("Ann", "job-2")
    assert re.fullmatch("[0-9a-f]{12}", blind("Ann", "job-1"))
    assert blind("Ann", "job-1") == "8610e377cd80"


def test_a_perplexity_beyond_all_numbers_is_said_in_words() -> None:
    shown = cell(Estimate(800.0, 3, 12, (2.0, 900.0)), is_nll=True)
    assert (shown["value"], shown["text"], shown["interval"]) == (None, "inf", None) and shown["note"]
    assert cell(Estimate(0.0, 3, 12, (0.0, 0.0)), is_nll=True)["value"] == 1.0
    assert cell(Estimate(800.0, 3, 12))["value"] == 800.0


def test_limits_say_what_applies_and_nothing_else(made: Mapping[str, Any]) -> None:
    text = " ".join(made["limits"])
    for part in ("sampled answers", "teach the facts again", "quantisation", "General ability", "adapter off"):
        assert part in text
    assert "1 of the forget items" in text and "made for a test" in text
    assert "No free answers" not in text and "Passages" not in text and "other words: whether" not in text
    result = make_result(3)
    small = " ".join(make_document(result, limits=["One more."])["limits"])
    assert "small sample" in small and small.endswith("One more.")


def test_another_reference_is_named() -> None:
    model = {
        "base_path_name": "tiny", "base_digest": "bb", "note": None, "start_adapter": None, "candidate_adapter": None,
        "reference": "reference adapter cc",
    }  # fmt: skip
    text = " ".join(make_document(make_result(2), model=model)["limits"])
    assert "reference adapter cc" in text and "adapter off" not in text


def test_regions_are_taken_from_the_masks_summary() -> None:
    summary = {
        "score": "squared", "regions": "localised", "k_ur": 0.1, "k_rr": 0.2, "entries": 9,
        "op_ur": {"count": 1, "share": 0.1}, "op_rr": {"count": 2, "share": 0.2}, "examples": {"privacy/forget": 1},
        "jaccard": {"labels": ["privacy/forget"], "whole": [[1.0]], "layers": []},
    }  # fmt: skip
    found = make_document(make_result(2), regions=summary)["regions"]
    assert found["jaccard"]["labels"] == ["privacy forget"] and found["op_rr"]["count"] == 2
    Draft202012Validator(json_schema()).validate(make_document(make_result(2), regions=summary))
    assert summary["jaccard"]["labels"] == ["privacy/forget"]  # type: ignore[index]


def test_a_missing_key_is_refused() -> None:
    with raises(KeyError, match="served_model"):
        make_document(make_result(2), job={"id": "job-1"})


def test_request_outcomes() -> None:
    rows = make_result(3).rows
    assert request_outcome([row for row in rows if row.example.segment is Segment.RETAIN]) == "nothing to forget"
    assert request_outcome([row for row in rows if row.outcome == "in_base"]) == "in base"
    assert request_outcome([row for row in rows if row.outcome == "forgotten"]) == "forgotten"


def test_the_environment_names_no_machine(tiny_model: LoadedModel) -> None:
    import platform

    found = environment(tiny_model)
    assert set(found) == set(ENVIRONMENT)
    assert platform.node() not in json.dumps(found)
