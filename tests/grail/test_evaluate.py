"""Before, after and the reference side by side: groups, exclusions, outcomes, summary, checkpoint scores."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.config import GateConfig
from grail.evaluate import accuracies, compare, group_of, in_base, measure, score_checkpoint
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import SMALL_SAMPLE
from grail.metrics.success import harmonic
from grail.model.adapter import adapter_off
from grail.model.load import LoadedModel
from grail.types import Example, Role, Segment
from tests.fixtures.tiny_model import tiny_adapter_directory, tiny_base_directory, tiny_model

__all__ = ["tiny_adapter_directory", "tiny_base_directory", "tiny_model"]

GATE = GateConfig()
Scores = dict[str, ExampleScore]


def example(
    key: str, segment: str = "forget", role: str = "item", *, domain: str = "privacy", request: str | None = "r1",
    subject: str = "s", parent: str | None = None,
) -> Example:  # fmt: skip
    return Example(
        key, domain, Segment(segment), subject, "q", "a", Role(role), parent=parent, request=request
    )  # fmt: skip


def score(accuracy: float, *, fact: bool | None = False, nll: float = 1.0) -> ExampleScore:
    return ExampleScore(accuracy, nll, 100 * accuracy, None if fact is None else 50.0, fact)


def scores(accuracy: Mapping[str, float], **known: bool) -> Scores:
    return {key: score(value, fact=known.get(key, False)) for key, value in accuracy.items()}


ROWS = [
    example("f1"),
    example("f1p", role="paraphrase", parent="f1"),
    example("f1k", "retain", "keep", parent="f1"),
    example("f1m", role="measure", parent="f1"),
    example("f2"),
    example("f2p", role="paraphrase", parent="f2"),
    example("r1", "retain"),
    example("r1p", "retain", "paraphrase", parent="r1"),
    example("r1m", "retain", "measure", parent="r1"),
    example("z1", "retain", domain="copyright", request=None),
]
BEFORE = scores(dict.fromkeys((row.id for row in ROWS), 1.0))
AFTER = scores(
    {"f1": 0.4, "f1p": 0.5, "f1k": 0.9, "f1m": 0.7, "f2": 1.0, "f2p": 1.0, "r1": 1.0, "r1p": 0.5, "r1m": 1, "z1": 0.8}
)
REFERENCE = scores(
    {"f1": 0.5, "f1p": 0.4, "f1k": 0.2, "f1m": 0.6, "f2": 0.9, "f2p": 0.3, "r1": 0.2, "r1p": 0.2, "r1m": 0.1, "z1": 0.0}
)
RESULT = compare(ROWS, BEFORE, AFTER, REFERENCE, GATE, held_out={"r1"})


def members(group: str, domain: str = "privacy") -> list[str]:
    return [row.example.id for row in RESULT.rows if row.group == group and row.example.domain == domain]


def test_every_example_counts_in_its_own_group() -> None:
    assert members("forget") == ["f1"]
    assert members("forget_paraphrase") == ["f1p"]
    assert members("forget_unrequested") == ["f1m"]
    assert members("retain") == ["f1k", "r1"]
    assert members("retain_paraphrase") == ["r1p"]
    assert members("retain", "copyright") == ["z1"]
    assert RESULT.domains["privacy"].groups["held_out"]["success"]["after"].n == 1
    assert set(RESULT.domains["copyright"].groups) == {"retain"}
    assert group_of(ROWS[8]) is None  # measured beside a retain item: in no mean


def test_what_the_base_knows_leaves_the_means_with_its_paraphrases_and_is_counted() -> None:
    assert in_base(ROWS, REFERENCE, GATE) == {"f2", "f2p"}
    assert (RESULT.domains["privacy"].forget_items, RESULT.domains["privacy"].in_base) == (2, 1)
    assert RESULT.domains["privacy"].groups["forget"]["success"]["after"].value == pytest.approx(60.0)
    told = {**REFERENCE, "f1": score(0.5, fact=True)}
    assert in_base(ROWS, told, GATE) == {"f1", "f1p", "f2", "f2p"}


def test_only_forget_items_end_as_known_to_the_base() -> None:
    knows_all = {row.id: score(1.0, fact=True) for row in ROWS}
    assert in_base(ROWS, knows_all, GATE) == {"f1", "f1p", "f2", "f2p"}


def test_outcomes() -> None:
    assert RESULT.outcomes == {
        "f1": "forgotten", "f1p": "forgotten", "f2": "in_base", "f2p": "in_base", "f1k": "kept", "r1": "kept",
        "r1p": "lost", "z1": "kept",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("after", "reference", "holds", "outcome"),
    [
        (0.5, 0.5, False, "forgotten"),  # as the reference
        (0.1, 0.5, False, "forgotten"),
        (0.7, 0.5, False, "forgotten"),  # cUS 60: just enough
        (0.71, 0.5, False, "not_forgotten"),
        (0.1, 0.5, True, "not_forgotten"),  # whatever the accuracy, the answer says it
        (0.5, 0.5, None, "forgotten"),
    ],
)
def test_forgotten_needs_a_low_accuracy_and_an_answer_without_the_fact(
    after: float, reference: float, holds: bool | None, outcome: str
) -> None:
    row = [example("f")]
    found = compare(row, {"f": score(1.0)}, {"f": score(after, fact=holds)}, {"f": score(reference)}, GATE)
    assert found.outcomes == {"f": outcome}


def test_measures_by_hand() -> None:
    groups = RESULT.domains["privacy"].groups
    assert groups["forget"]["calibrated_success"]["after"].value == 100.0
    assert groups["forget"]["calibrated_success"]["before"].value == 0.0
    assert groups["forget"]["calibrated_success"]["reference"].value is None
    assert groups["forget"]["forget_gap"]["after"].value == pytest.approx(10.0)
    assert groups["forget_paraphrase"]["forget_gap"]["after"].value == pytest.approx(-10.0)
    assert groups["retain"]["success"]["after"].value == pytest.approx(95.0)
    assert groups["retain"]["success"]["after"].note == SMALL_SAMPLE
    assert groups["forget"]["nll"]["after"].value == 1.0
    assert groups["forget"]["fact_in_answer"]["before"].value == 0.0
    assert "calibrated_success" not in groups["retain"] and "forget_gap" not in groups["retain"]


def test_the_summary_is_the_harmonic_mean_of_both_sides() -> None:
    after = RESULT.summary["privacy"]["after"]
    assert after["hs"] == pytest.approx(harmonic(60.0, 95.0)) and after["chs"] == pytest.approx(harmonic(100.0, 95.0))
    assert after["avg_success"] == pytest.approx(77.5)
    assert RESULT.summary["privacy"]["reference"]["cus"] is None
    assert RESULT.summary["copyright"]["after"] == {
        "us": None, "rs": 80.0, "hs": None, "cus": None, "chs": None, "avg_success": None,
    }  # fmt: skip
    assert RESULT.summary["mean"]["after"]["rs"] == pytest.approx((95.0 + 80.0) / 2)
    assert RESULT.summary["mean"]["after"]["us"] == pytest.approx(60.0)


def test_a_request_is_judged_on_its_own_points() -> None:
    rows = [example("f1"), example("f2", request="r2"), example("z", "retain", request=None)]
    after = scores({"f1": 0.5, "f2": 1.0, "z": 1.0})
    reference = scores({"f1": 0.5, "f2": 0.5, "z": 0.5})
    found = compare(rows, after, after, reference, GATE)
    assert found.requests["r1"].groups["forget"]["calibrated_success"]["after"].value == 100.0
    assert found.requests["r2"].groups["forget"]["calibrated_success"]["after"].value == 0.0
    assert set(found.requests) == {"r1", "r2"} and "retain" not in found.requests["r1"].groups


def test_without_free_answers_their_measures_are_undefined_and_not_zero() -> None:
    bare = {row.id: score(0.5, fact=None) for row in ROWS}
    found = compare(ROWS, bare, bare, bare, GATE).domains["privacy"].groups["forget"]
    assert found["rouge_l_free"]["after"].value is None and found["fact_in_answer"]["after"].n == 0


def test_a_missing_score_is_refused_by_name_of_the_side() -> None:
    with pytest.raises(ValueError, match="no score under the candidate"):
        compare(ROWS, BEFORE, {}, REFERENCE, GATE)


@given(st.permutations(ROWS))
@settings(max_examples=10, deadline=None)
def test_the_order_of_examples_changes_nothing(rows: list[Example]) -> None:
    assert compare(rows, BEFORE, AFTER, REFERENCE, GATE, held_out={"r1"}) == RESULT


def test_a_checkpoint_score_is_what_the_comparison_says() -> None:
    rows = [*ROWS, example("c1", domain="copyright")]
    now, ref = ({key: s.accuracy for key, s in side.items()} for side in (AFTER, REFERENCE))
    now["c1"], ref["c1"] = 0.6, 0.2
    known = in_base(ROWS, REFERENCE, GATE)
    found = score_checkpoint(rows, now, ref, known)
    full = compare(
        rows, {**BEFORE, "c1": score(1.0)}, {**AFTER, "c1": score(0.6)}, {**REFERENCE, "c1": score(0.2)}, GATE
    )
    mean = full.summary["mean"]["after"]
    assert (found.cus, found.rs, found.chs) == (mean["cus"], mean["rs"], mean["chs"])
    assert found.forget_gap == pytest.approx((10.0 - 40.0) / 2)


def test_a_checkpoint_with_nothing_left_to_forget_is_judged_by_retention() -> None:
    found = score_checkpoint([example("z", "retain")], {"z": 0.5}, {"z": 0.1})
    assert (found.cus, found.rs, found.forget_gap) == (100.0, 50.0, 0.0)


def test_a_real_model_compared_with_itself(tiny_model: LoadedModel) -> None:
    rows = [Example(f"{s}{n}", "privacy", s, f"p{n}", f"q{n}?", f"it is {n}") for s in Segment for n in range(3)]
    now = measure(tiny_model, rows, generate=True)
    with adapter_off(tiny_model.model):
        reference = measure(tiny_model, rows, generate=True)
        only = accuracies(tiny_model, [tiny_model.tokenise(row) for row in rows])
    assert only == {key: s.accuracy for key, s in reference.items()}
    found = compare(rows, now, now, reference, GATE)
    figures = found.summary["privacy"]
    assert figures["before"] == figures["after"] and set(found.outcomes) <= {row.id for row in rows}
