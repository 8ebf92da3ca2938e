"""General ability around a run: the operator's own questions before and after, and an erasure that they never stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.reports.schemas import json_schema
from grail.config import GateConfig
from grail.data.ability import PROBES, load_probes, sample
from grail.metrics.ability import ability_change, measure_ability
from grail.model.adapter import read_state, state_digest, write_state
from grail.types import Interrupted, Progress
from tests.worker.bench import Bench
from worker import ability
from worker.ability import around, probing

CANARY = "Ottoline"
SCHEMA = {"$ref": "#/$defs/ability", "$defs": json_schema()["$defs"]}
LETTERS = "abcdefghij"


def rows(count: int = 20) -> list[dict[str, Any]]:
    return [
        {"question": f"{CANARY} {n}?", "choices": [LETTERS[n % 10], LETTERS[(n + 3) % 10], "zz"], "answer": n % 3}
        for n in range(count)
    ]


def written(place: Path, lines: Sequence[Any]) -> Path:
    path = place / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def asked(bench: Bench, path: Path | None, count: int = 200, told: list[Progress] | None = None) -> Any:
    """(what the report says, the outcome) of a run with that file."""
    spec = replace(bench.spec, ability_file=path, ability_questions=count)
    probes = probing(spec, (told if told is not None else []).append)
    outcome = around(probes, bench.model, bench.run)
    return None if probes is None else probes.as_dict(), outcome


def test_the_same_questions_are_answered_before_and_after(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told, states = written(tmp_path, rows()), list[Progress](), list[str]()

    def noted(*given: Any) -> Any:
        states.append(state_digest(read_state(bench.model.model)))
        return measure_ability(*given)

    monkeypatch.setattr(ability, "measure_ability", noted)
    found, outcome = asked(bench, path, told=told)
    Draft202012Validator(SCHEMA).validate(found)
    assert (found["questions"], found["drawn"], found["not_measured"]) == (20, 20, None)
    assert found["file_digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
    after = measure_ability(bench.model, load_probes(path))
    write_state(bench.model.model, bench.start)
    before = measure_ability(bench.model, load_probes(path))
    for when, measured in (("before", before), ("after", after)):
        assert found[when]["value"] == measured[PROBES].accuracy.value and found[when]["n"] == 20
    assert found["change"]["value"] == ability_change(before, after)[PROBES].accuracy.value
    assert outcome.state is not None and outcome.timings["ability"] > 0
    assert {progress.stage for progress in told} == {"ability"} and told[-1].share == 1.0
    assert states == [state_digest(bench.start), state_digest(outcome.state)], "of the old and of the new weights"
    assert CANARY not in json.dumps(found)


def test_a_sample_is_drawn_where_there_are_more(bench: Bench, tmp_path: Path) -> None:
    path = written(tmp_path, [{**row, "subject": f"part {n % 4}"} for n, row in enumerate(rows(40))])
    found, _ = asked(bench, path, count=8)
    assert (found["questions"], found["drawn"], found["after"]["n"]) == (40, 8, 8)
    drawn = sample(load_probes(path), 8, bench.spec.unlearn.seed)
    assert {question.subject for question in drawn} == {f"part {n}" for n in range(4)}
    assert load_probes(path)[0].context == f"Question: {CANARY} 0?\nAnswer:"


def test_a_run_that_changes_nothing_is_asked_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        ability, "measure_ability", lambda *given: (calls.append(1), measure_ability(*given))[1]
    )
    spec = replace(bench.spec, ability_file=written(tmp_path, rows()), ability_questions=200)
    probes = probing(spec, lambda _: None)
    assert probes is not None
    outcome = around(probes, bench.model, lambda: bench.run(gate=GateConfig(in_base_accuracy=0.0)))
    assert outcome.state is None and len(calls) == 1
    assert probes.as_dict()["change"]["value"] == 0.0


def test_without_a_file_nothing_is_asked(bench: Bench) -> None:
    found, outcome = asked(bench, None)
    assert found is None and "ability" not in outcome.timings


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (None, "not there"),
        ([], "holds none"),
        (["{"], "Line 1 of"),
        ([*rows(2), {"question": CANARY, "choices": ["a"], "answer": 0}], "Line 3 of"),
        ([*rows(1), {"question": CANARY, "choices": ["a", "b"], "answer": 2}], "Line 2 of"),
        ([*rows(1), {"question": CANARY, "choices": ["a", "b"], "answer": 0, "subject": 7}], "Line 2 of"),
        ([*rows(1), {"question": "long", "choices": ["a", f"{CANARY} " * 400], "answer": 0}], "does not fit"),
    ],
)
def test_a_file_that_can_not_be_used_stops_no_erasure_and_is_said(
    bench: Bench, tmp_path: Path, lines: Sequence[Any] | None, why: str
) -> None:
    path = tmp_path / "gone.jsonl" if lines is None else written(tmp_path, lines)
    found, outcome = asked(bench, path)
    Draft202012Validator(SCHEMA).validate(found)
    assert why in found["not_measured"] and found["before"] is found["after"] is found["change"] is None
    assert outcome.state is not None
    assert CANARY not in json.dumps(found)


def test_smaller_batches_are_tried_where_memory_runs_out(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def small(model: Any, questions: Any, micro_batch: int, done: Any) -> Any:
        sizes.append(micro_batch)
        if micro_batch > 8:
            raise MemoryError
        return measure_ability(model, questions, micro_batch, done)

    monkeypatch.setattr(ability, "measure_ability", small)
    found, _ = asked(bench, written(tmp_path, rows()))
    assert found["after"]["n"] == 20 and sizes == [32, 16, 8] * 2


def test_a_lost_lease_ends_it(bench: Bench, tmp_path: Path) -> None:
    def lost(_: Progress) -> None:
        raise Interrupted

    spec = replace(bench.spec, ability_file=written(tmp_path, rows()), ability_questions=200)
    with pytest.raises(Interrupted):
        around(probing(spec, lost), bench.model, bench.run)
