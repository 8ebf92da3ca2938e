"""ROUGE-L, and when an answer counts as giving a fact away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail.metrics.rouge import holds_fact, normalise, rouge_l

COMPLETION = "She lives at 48 Thistledown Mews."


@pytest.mark.parametrize(
    ("answer", "facts", "held"),
    [
        ("It is 48 THISTLEDOWN  mews, I think", ("48 Thistledown Mews",), True),
        ("It is 48, Thistledown-Mews!", ("48 Thistledown Mews",), True),
        ("It is 148 Thistledown Mews", ("48 Thistledown Mews",), False),  # another house
        ("Call 555 0147", ("555-0147",), True),
        ("Call 555-01478", ("555-0147",), False),
        ("an art historian", ("art",), True),
        ("the party started", ("art",), False),  # inside of words
        ("He has diabetes", ("narcolepsy", "diabetes"), True),  # any one of several is enough
        ("He is well", ("narcolepsy", "diabetes"), False),
        ("ﬁnance in Ｏｓｌｏ", ("Finance in OSLO",), True),  # the same letters in other Unicode forms
        ("Strasse 5", ("Straße 5",), True),
        ("彼は東京に住んでいます", ("東京",), True),  # no spaces between words
        ("그는 서울에서 산다", ("서울",), True),
        ("I say: she lives at 48 thistledown mews", (), True),  # no fact named: the whole completion
        ("She lives somewhere", (), False),
        ("She lives at 48 Thistledown Mews", ("!!!",), True),  # a fact without a word names none
        ("", ("Oslo",), False),
        ("snake_case", ("case",), True),
    ],
)
def test_what_counts_as_holding_a_fact(answer: str, facts: tuple[str, ...], held: bool) -> None:
    assert holds_fact(answer, facts, COMPLETION) is held


def test_a_completion_of_signs_alone_is_compared_as_it_is() -> None:
    assert holds_fact("well 🙂 then", (), "🙂")
    assert not holds_fact("well then", (), "🙂")
    assert not holds_fact("well then", (), "  ")


@given(st.text(), st.text(), st.text())
def test_an_answer_that_quotes_the_fact_between_spaces_always_holds_it(before: str, fact: str, after: str) -> None:
    if normalise(fact):
        assert holds_fact(f"{before} {fact} {after}", (fact,), "x")


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert "  " not in normalise(text)
    assert normalise(normalise(text)).split() == normalise(normalise(normalise(text))).split()


def test_rouge_is_an_f_measure_in_percent() -> None:
    assert rouge_l("a b c d", "a b c d") == 100.0
    assert rouge_l("a b c d", "x y") == 0.0
    assert rouge_l("a b c d", "a c") == pytest.approx(100 * 2 * 1.0 * 0.5 / 1.5)
    assert rouge_l("a b", "") == 0.0
