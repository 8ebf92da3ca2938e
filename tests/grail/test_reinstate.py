"""Earlier erasures in the comparison and the gate, and what a run that reinstates is judged by."""

from __future__ import annotations

import pytest

from grail.config import GateConfig, UnlearnConfig
from grail.evaluate import EvalResult, compare, in_base
from grail.gate import decide
from grail.metrics.base import ExampleScore
from grail.run import LEAST_STEPS, REINSTATE_PASSES, reinstatement
from grail.types import Example, Kind, Role, Segment

GATE = GateConfig()


def made(key: str, segment: Segment, role: Role = Role.ITEM, request: str | None = "r1") -> Example:
    return Example(key, "copyright", segment, key, "q", "a", role, request=request)


ERASED = [made(f"e{number}", Segment.FORGET, Role.ERASED, None) for number in range(3)]
TAUGHT = [made(f"t{number}", Segment.RETAIN) for number in range(2)]
STANDING = [made(f"s{number}", Segment.RETAIN, request=None) for number in range(2)]
ASKED = [made(f"f{number}", Segment.FORGET) for number in range(2)]


def result(examples: list[Example], kind: Kind, **after: float) -> EvalResult:
    """A comparison whose accuracies after the run are given by the first letter of the id."""
    before = {"e": 0.5, "t": 0.5, "s": 1.0, "f": 1.0}

    def scores(level: dict[str, float]) -> dict[str, ExampleScore]:
        return {e.id: ExampleScore(level[e.id[0]], 3.0, 50.0, 50.0, False) for e in examples}

    never = dict.fromkeys(before, 0.5)
    return compare(examples, scores(before), scores({**before, **after}), scores(never), GATE, kind=kind)


def failed(found: EvalResult, kind: Kind) -> set[str]:
    return {check.name for check in decide(found, GATE, kind).checks if not check.ok}


def test_an_erasure_that_gave_way_fails_the_gate_of_a_later_job() -> None:
    job = [*ASKED, *STANDING, *ERASED]
    fine = result(job, Kind.UNLEARN, f=0.5)
    assert failed(fine, Kind.UNLEARN) == set()
    assert fine.domains["copyright"].groups["forget_earlier"]["calibrated_success"]["after"].n == 3
    assert fine.domains["copyright"].forget_items == 2, "what was erased before was not asked for again"
    assert fine.domains["copyright"].groups["forget"]["success"]["after"].n == 2
    known_again = result(job, Kind.UNLEARN, f=0.5, e=0.9)
    assert failed(known_again, Kind.UNLEARN) == {"min_earlier_cus"}


def test_an_earlier_erasure_that_the_base_knows_counts_in_no_mean() -> None:
    never = {e.id: ExampleScore(0.95, 1.0, 50.0, 50.0, False) for e in ERASED}
    assert in_base(ERASED, never, GATE) == {"e0", "e1", "e2"}
    scores = {e.id: ExampleScore(0.95, 1.0, 50.0, 50.0, False) for e in ERASED}
    assert "forget_earlier" not in compare(ERASED, scores, scores, never, GATE).domains["copyright"].groups


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        ({"t": 0.95}, set()),
        ({"t": 0.7}, {"min_rs"}),  # with the standing set's the domain's mean is 85 at 0.7
        ({"t": 0.55}, {"min_rs", "min_request_rs"}),
        ({"t": 0.95, "e": 0.9}, {"min_earlier_cus"}),
        ({"t": 0.95, "s": 0.5}, {"min_rs"}),
    ],
)
def test_what_is_taught_again_must_be_there_and_what_was_erased_must_stay_gone(
    after: dict[str, float], wrong: set[str]
) -> None:
    found = result([*TAUGHT, *STANDING, *ERASED], Kind.REINSTATE, **after)
    if after == {"t": 0.7}:
        found = result([*TAUGHT, *ERASED], Kind.REINSTATE, **after)
    assert failed(found, Kind.REINSTATE) == wrong


def test_outcomes_of_what_is_taught_again_are_judged_by_what_is_known_after() -> None:
    found = result([*TAUGHT, *STANDING], Kind.REINSTATE, t=0.75)
    assert {key: found.outcomes[key] for key in ("t0", "s0")} == {"t0": "lost", "s0": "kept"}
    assert result(TAUGHT, Kind.REINSTATE, t=0.8).outcomes["t0"] == "kept"


def test_a_reinstatement_of_nothing_fails() -> None:
    assert failed(result(ERASED, Kind.REINSTATE), Kind.REINSTATE) == {"retain_items"}


def test_its_settings_give_every_item_its_passes_and_keep_what_bounds_memory() -> None:
    asked = UnlearnConfig(method="memflex", micro_batch=3, seed=7, learning_rate=5e-5)
    made = reinstatement(asked, 100)
    assert made.steps * (made.examples_per_step - made.forget_examples_per_step) == REINSTATE_PASSES * 100
    assert (made.micro_batch, made.seed, made.method, made.regions) == (3, 7, "grail", "none")
    assert reinstatement(asked, 1).steps == LEAST_STEPS
