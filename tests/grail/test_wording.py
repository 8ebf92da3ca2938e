"""Other wordings: what they keep, that they differ, that they are repeatable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grail.data.wording import leave_out, wordings
from grail.types import Example, Segment

QUESTION = "At what home address does Oriveta Kalnbergs live today?"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(prompt: str) -> Example:
    return Example("f1", "privacy", Segment.FORGET, "s", prompt, "An answer.", facts=("answer",), request="r")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=12), st.floats(0.0, 0.9), st.integers(0, 99))
def test_what_is_left_is_some_of_the_words_in_their_order(words: list[str], share: float, seed: int) -> None:
    prompt = " ".join(words)
    left = leave_out(prompt, share, seeded(seed))
    assert left
    remaining = iter(prompt.split(" "))
    assert all(word in remaining for word in left.split(" "))  # a subsequence: each is found after the one before


def test_the_share_of_words_left_out_is_the_one_asked_for() -> None:
    prompt = " ".join(str(number) for number in range(4000))
    assert len(leave_out(prompt, 0.3, seeded(1)).split(" ")) / 4000 == pytest.approx(0.7, abs=0.03)
    assert leave_out(prompt, 0.0, seeded(1)) == prompt


def test_the_first_wording_is_the_example_itself_and_no_two_are_the_same() -> None:
    found = wordings(example(QUESTION), 4, 0.4, seeded(0))
    assert found[0] == example(QUESTION)
    assert len({w.prompt for w in found}) == len({w.id for w in found}) == len(found) == 4
    assert {(w.completion, w.domain, w.segment, w.subject, w.facts, w.request) for w in found} == {
        ("An answer.", "privacy", Segment.FORGET, "s", ("answer",), "r")
    }


@pytest.mark.parametrize("prompt", ["", "Why?", "名前は何ですか"])
def test_a_passage_or_a_prompt_of_one_word_has_no_other_wording(prompt: str) -> None:
    assert wordings(example(prompt), 4, 0.5, seeded(0)) == [example(prompt)]


def test_one_wording_is_the_example_alone_and_the_same_seed_gives_the_same_words() -> None:
    assert wordings(example(QUESTION), 1, 0.5, seeded(0)) == [example(QUESTION)]
    assert wordings(example(QUESTION), 4, 0.5, seeded(3)) == wordings(example(QUESTION), 4, 0.5, seeded(3))
