"""The gate as a table: which comparison passes, which fails, and by which check."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.config import GateConfig
from grail.evaluate import EvalResult, compare
from grail.gate import Check, Verdict, at_least, at_most, decide
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import Estimate
from grail.types import Example, Role, Segment

GATE = GateConfig()
SIDES = {"known": "forget", "asked": "forget", "stays": "retain"}


def result(
    *,
    forget: float = 0.5,
    reference: float = 0.5,
    retain: float = 1.0,
    nll: float = 3.0,
    nll_reference: float = 3.0,
    paraphrase: float | None = None,
    forget_items: int = 2,
    retain_items: int = 2,
    other_request: float | None = None,
    subjects: int = 2,
) -> EvalResult:
    """A comparison of one domain whose accuracies after the run are given."""

    def make(
        key: str, segment: Segment, role: Role = Role.ITEM, request: str = "r1", parent: str | None = None
    ) -> None:
        subject = f"s{len(examples) % subjects}"
        examples.append(Example(key, "privacy", segment, subject, "q", "a", role, parent=parent, request=request))

    examples: list[Example] = []
    for number in range(forget_items):
        make(f"f{number}", Segment.FORGET)
        if paraphrase is not None:
            make(f"f{number}p", Segment.FORGET, Role.PARAPHRASE, parent=f"f{number}")
    for number in range(retain_items):
        make(f"z{number}", Segment.RETAIN)
    if other_request is not None:
        make("o", Segment.FORGET, request="r2")
    level = {"f": forget, "z": retain, "o": other_request or 0.0, "p": paraphrase or 0.0}

    def accuracy(key: str) -> float:
        return level["p" if key.endswith("p") else key[0]]

    before = {e.id: ExampleScore(1.0, 0.1, 100.0, 100.0, True) for e in examples}
    after = {e.id: ExampleScore(accuracy(e.id), nll, 50.0, 50.0, False) for e in examples}
    never = {e.id: ExampleScore(reference, nll_reference, 50.0, 50.0, False) for e in examples}
    return compare(examples, before, after, never, GATE)


def failed(verdict: Verdict) -> set[str]:
    return {f"{check.scope}: {check.name}" for check in verdict.checks if not check.ok}


@pytest.mark.parametrize(
    ("made", "broken"),
    [
        ({}, set()),
        ({"forget": 0.56}, set()),  # cUS 88
        ({"forget": 0.6}, {"privacy: min_cus"}),  # cUS 80: the domain's bound is 85, the request's 60
        ({"forget": 0.75}, {"privacy: min_cus", "request r1: min_request_cus"}),
        ({"forget": 1.0}, {"privacy: min_cus", "request r1: min_request_cus"}),  # nothing happened
        ({"forget": 0.31}, set()),  # 19 points beyond the reference
        ({"forget": 0.25}, {"privacy: max_forget_gap"}),  # over-forgetting
        ({"forget": 0.1}, {"privacy: max_forget_gap", "request r1: max_request_forget_gap"}),
        ({"retain": 0.85}, set()),
        ({"retain": 0.84}, {"privacy: min_rs"}),
        ({"retain": 0.5}, {"privacy: min_rs", "request r1: min_request_rs"}),
        ({"nll": 3.0 + math.log(10) - 1e-9}, set()),
        ({"nll": 3.0 + math.log(10) + 1e-9}, {"privacy: max_ppl_ratio"}),  # gibberish
        ({"nll": 3.0 - math.log(10) - 1e-9}, {"privacy: max_ppl_ratio"}),  # suspiciously fluent
        ({"nll": 5000.0}, {"privacy: max_ppl_ratio"}),  # exp would overflow
        ({"nll": 5000.0, "nll_reference": 4999.0}, set()),
        ({"paraphrase": 0.6}, set()),
        ({"paraphrase": 0.9}, {"privacy: min_paraphrase_cus"}),  # the fact comes out in other words
        ({"other_request": 1.0, "forget": 0.5, "forget_items": 20}, {"request r2: min_request_cus"}),
        ({"forget_items": 0}, {"batch: forget_items"}),
        ({"retain_items": 0}, {"batch: retain_items"}),
        ({"forget_items": 0, "retain_items": 0}, {"batch: forget_items", "batch: retain_items"}),
    ],
)
def test_which_checks_fail(made: dict[str, float], broken: set[str]) -> None:
    verdict = decide(result(**made), GATE)  # type: ignore[arg-type]
    assert failed(verdict) == broken
    assert verdict.ok is (not broken)


def test_all_known_to_the_base_passes_and_says_that_nothing_is_certified() -> None:
    verdict = decide(result(reference=0.95, forget=1.0), GATE)
    assert verdict.ok
    said = [check for check in verdict.checks if check.name == "certified_forget_items"]
    assert [(check.scope, check.value, check.n) for check in said] == [("privacy", 0.0, 2), ("request r1", 0.0, 2)]
    assert not [check for check in verdict.checks if "cus" in check.name]


def test_a_batch_that_is_known_in_part_is_judged_on_the_rest_and_does_not_say_that_nothing_is_certified() -> None:
    examples = [Example(key, "privacy", Segment(side), "s", "q", "a", request="r1") for key, side in SIDES.items()]
    level = {"known": 0.95, "asked": 0.5, "stays": 0.5}
    before = {e.id: ExampleScore(1.0, 0.1, 100.0) for e in examples}
    never = {e.id: ExampleScore(level[e.id], 3.0, 50.0) for e in examples}
    for accuracy, broken in ((0.5, set()), (1.0, {"privacy: min_cus", "request r1: min_request_cus"})):
        after = {e.id: ExampleScore(accuracy if e.id == "asked" else 1.0, 3.0, 50.0) for e in examples}
        verdict = decide(compare(examples, before, after, never, GATE), GATE)
        assert failed(verdict) == broken
        assert "certified_forget_items" not in {check.name for check in verdict.checks}
        assert [check.n for check in verdict.checks if check.name == "min_cus"] == [1]


def test_known_to_the_base_but_retention_lost_still_fails() -> None:
    assert failed(decide(result(reference=0.95, retain=0.1), GATE)) >= {"privacy: min_rs"}


def test_checks_carry_their_n_and_interval() -> None:
    verdict = decide(result(forget_items=24, retain_items=24, subjects=12), GATE)
    (check,) = [c for c in verdict.of("privacy") if c.name == "min_cus"]
    assert (check.value, check.bound, check.comparison, check.n) == (100.0, 85.0, ">=", 24)
    assert check.interval == (100.0, 100.0)
    assert verdict.as_dict()["checks"][0]["interval"] == [100.0, 100.0]
    (small,) = [c for c in decide(result(), GATE).of("privacy") if c.name == "min_cus"]
    assert small.interval is None


def test_an_undefined_or_broken_value_never_holds() -> None:
    for value in (None, math.nan):
        assert not at_least("x", "s", Estimate(value, 1, 1), 0.0).ok
        assert not at_most("x", "s", Estimate(value, 1, 1), 100.0).ok


def test_a_verdict_without_checks_can_not_be_ok() -> None:
    empty = compare([], {}, {}, {}, GATE)
    assert not decide(empty, GATE).ok
    assert decide(empty, GATE).checks != ()


def test_a_stricter_bound_never_lets_more_through() -> None:
    loose, strict = GateConfig(min_cus=50.0), GateConfig(min_cus=95.0)
    for forget in (0.5, 0.55, 0.6, 0.7, 0.8):
        found = result(forget=forget)
        assert decide(found, loose).ok or not decide(found, strict).ok


@given(forget=st.floats(0, 1), reference=st.floats(0, 0.89), retain=st.floats(0, 1), nll=st.floats(0, 2000))
@settings(max_examples=50, deadline=None)
def test_ok_means_that_every_shown_check_holds(forget: float, reference: float, retain: float, nll: float) -> None:
    verdict = decide(result(forget=forget, reference=reference, retain=retain, nll=nll), GATE)
    assert verdict.ok is all(check.ok for check in verdict.checks)
    for check in verdict.checks:
        assert check.value is not None and math.isfinite(check.value)
        if check.name != "max_ppl_ratio":
            assert check.ok is (check.value >= check.bound if check.comparison == ">=" else check.value <= check.bound)


def test_a_check_is_plain_values() -> None:
    plain = Verdict(True, (Check("a", "b", 1.0, 0.5, ">=", True, 3, (0.5, 1.5)),)).as_dict()
    assert plain == {
        "ok": True,
        "checks": [
            {"name": "a", "scope": "b", "value": 1.0, "bound": 0.5, "comparison": ">=", "ok": True, "n": 3,
             "interval": [0.5, 1.5]},
        ],
    }  # fmt: skip
