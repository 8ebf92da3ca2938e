"""Teaching again through the pipeline: what was erased wrongly comes back, other erasures stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grail import run
from grail.types import Example, Kind, Role, Segment
from tests.fixtures.facts import END, FRUIT, PEOPLE, PLACE, WORKS
from tests.worker.bench import Bench, Stopped, example, same
from worker.artifacts import ArtefactStore

END_OF_DUSK = example(50, END.format("Dusk"), WORKS["Dusk"][0], Segment.RETAIN, "Dusk", "copyright", request="r9")
GONE = example(0, PLACE.format("Ada"), PEOPLE["Ada"][0], Segment.FORGET, "Ada", role=Role.ERASED)


def kept() -> list[Example]:
    return [
        example(2 + place, FRUIT.format(name), fruit, Segment.RETAIN, name)
        for place, (name, (_, fruit)) in enumerate(PEOPLE.items())
    ]


@pytest.fixture(autouse=True)
def few_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LEAST_STEPS", 4)
    monkeypatch.setattr(run, "REINSTATE_PASSES", 2)
    bench.spec = replace(bench.spec, kind=Kind.REINSTATE, examples=(GONE, *kept(), END_OF_DUSK))


def test_items_are_taught_and_earlier_erasures_are_held(bench: Bench) -> None:
    outcome = bench.run()
    assert [stage for stage, _ in bench.told] == ["original", "reference", "reinstate", "candidate"]
    assert outcome.state is not None and outcome.log is not None and outcome.regions is None
    assert set(outcome.log.losses[0]) == {"step", "forget", "retain"}, "both sides are trained"
    names = {check.name for check in outcome.verdict.checks}
    assert {"min_request_rs", "min_rs"} <= names and "min_cus" not in names
    row = next(row for row in outcome.result.rows if row.example is END_OF_DUSK)
    assert row.after.nll < row.before.nll


def test_with_no_earlier_erasure_it_is_plain_teaching(bench: Bench) -> None:
    outcome = bench.run(examples=(*kept(), END_OF_DUSK))
    assert outcome.log is not None and set(outcome.log.losses[0]) == {"step", "retain"}


def test_without_anything_to_teach_the_gate_says_so_and_nothing_is_trained(bench: Bench) -> None:
    outcome = bench.run(examples=(GONE, *kept()))
    assert (outcome.state, outcome.verdict.ok) == (None, False)
    assert "retain_items" in {check.name for check in outcome.verdict.checks if not check.ok}


@pytest.mark.parametrize("examples", [(GONE, *kept(), END_OF_DUSK), (*kept(), END_OF_DUSK)], ids=["held", "plain"])
def test_one_that_was_stopped_goes_on_to_the_same_end(
    bench: Bench, tmp_path: Path, examples: tuple[Example, ...]
) -> None:
    whole = bench.run(examples=examples)
    bench.store = ArtefactStore(tmp_path / "others", tmp_path / "scratch")

    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 3 and getattr(progress, "stage", "") in {"unlearn", "teach"}:
            raise Stopped

    with pytest.raises(Stopped):
        bench.run(examples=examples, report=stop)
    same(bench.run(examples=examples), whole)
