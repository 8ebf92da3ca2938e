"""Multiple choice by likelihood: the batched scores are those of one choice at a time, whatever stands beside it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grail.data.ability import TASKS, AbilityDataMissing, BadQuestion, Question, load_task, sample
from grail.metrics import choices
from grail.metrics.ability import Answered, ability_change, ability_of, answered, measure_ability
from grail.metrics.choices import ChoiceTooLong, loglikelihoods, may_share, rows_of
from grail.metrics.likelihood import NonFiniteScore
from grail.model.adapter import adapter_parameters
from grail.model.load import LoadedModel

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "general"
TEXTS = [
    ("Question: Which of them floats?\nAnswer:", ("a stone", "wood", "an anvil made of lead and iron"), 1),
    ("Q: Who?\nA:", ("Ann", "Ben"), 0),
    ("Letters\nAnswer:", ("A", "B", "C", "D"), 2),
    ("Größe der Elle, in 🙂?\nA:", ("zwölf", "12", "x", "an ell is an ell", "y"), 4),
    ("It ends in spaces  ", ("one", "the other of the two"), 0),
]


def asked(texts: Sequence[tuple[str, tuple[str, ...], int]] = TEXTS) -> list[Question]:
    return [Question(f"t/{n}", "t", "t", context, given, right) for n, (context, given, right) in enumerate(texts)]


def one_at_a_time(model: LoadedModel, question: Question, choice: str) -> float:
    """ln P(choice | context) from the whole model's logits, one token after the other, nothing padded or packed."""
    context = question.context.rstrip()
    start = len(model.tokenizer.encode(context, add_special_tokens=True))
    ids = model.tokenizer.encode(question.context + " " + choice, add_special_tokens=True)
    kept = ids[-(model.context_tokens + 1) :]
    start -= len(ids) - len(kept)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([kept[:-1]])).logits[0].double()
    return math.fsum(
        float(logits[at - 1].log_softmax(dim=-1)[label]) for at, label in enumerate(kept) if at >= start
    )  # fmt: skip


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 100])
def test_batched_scores_are_those_of_one_choice_at_a_time(
    tiny_model: LoadedModel, micro_batch: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "may_share", lambda _: shared)
    told: list[int] = []
    found = loglikelihoods(tiny_model, asked(), micro_batch, told.append)
    for question, values in zip(asked(), found, strict=True):
        expected = [one_at_a_time(tiny_model, question, choice) for choice in question.choices]
        assert values == pytest.approx(expected, rel=1e-5)
        assert answered(question, values).chosen == expected.index(max(expected))
    assert sum(told) == sum(len(question.choices) for question in asked())


def test_choices_that_share_a_row_are_read_once_with_their_context(tiny_model: LoadedModel) -> None:
    assert may_share(tiny_model.model.get_base_model().config)
    (row,) = rows_of(tiny_model, asked()[0], 0, shared=True)
    context, given = len(TEXTS[0][0]), TEXTS[0][1]
    assert row.width == context + sum(len(choice) for choice in given)  # a space more, the last byte unread
    apart = rows_of(tiny_model, asked()[0], 0, shared=False)
    assert [row.width for row in apart] == [context + len(choice) for choice in given]


def test_a_model_that_does_not_see_all_before_has_a_row_for_each_choice() -> None:
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    assert may_share(LlamaConfig())
    assert may_share(Qwen2Config())
    assert not may_share(MistralConfig(sliding_window=8))
    assert not may_share(Qwen3Config(use_sliding_window=True, sliding_window=8, max_window_layers=1))


def test_a_long_context_is_cut_from_the_left_as_far_as_each_choice_needs(tiny_model: LoadedModel) -> None:
    length = tiny_model.context_tokens
    question = asked([("".join(chr(97 + n % 26) for n in range(length - 3)), ("ab", "a longer one", "cd"), 0)])[0]
    rows = rows_of(tiny_model, question, 0, shared=True)
    assert [row.places for row in rows] == [((0, 0), (0, 2)), ((0, 1),)]
    (values,) = loglikelihoods(tiny_model, [question], 8)
    assert values == pytest.approx([one_at_a_time(tiny_model, question, c) for c in question.choices], rel=1e-5)


def test_a_choice_that_fills_the_context_is_named(tiny_model: LoadedModel) -> None:
    question = asked([("Q:", ("short", "x" * tiny_model.context_tokens), 0)])[0]
    with pytest.raises(ChoiceTooLong, match=r"question t/0 has 513 tokens, .* 512: leave the question out"):
        loglikelihoods(tiny_model, [question], 8)


def test_a_broken_adapter_has_no_ability(tiny_model: LoadedModel) -> None:
    with torch.no_grad():
        next(iter(adapter_parameters(tiny_model.model).values())).fill_(math.nan)
    with pytest.raises(NonFiniteScore):
        measure_ability(tiny_model, asked())


def test_the_order_of_the_choices_does_not_matter(tiny_model: LoadedModel) -> None:
    questions = [replace(q, choices=q.choices[::-1], answer=len(q.choices) - 1 - q.answer) for q in asked()]
    for one, other in zip(
        measure_ability(tiny_model, asked())["t"].answers, measure_ability(tiny_model, questions)["t"].answers,
        strict=True,
    ):  # fmt: skip
        assert one.loglikelihoods == pytest.approx(other.loglikelihoods[::-1], rel=1e-5)
        assert one.chosen == len(one.loglikelihoods) - 1 - other.chosen
        assert (one.right, one.right_norm) == (other.right, other.right_norm)


def test_the_first_of_equals_is_chosen_and_length_is_counted_in_characters() -> None:
    question = Question("arc_challenge/1", "arc_challenge", "arc_challenge", "c", ("ab", "cd", "größer"), 2)
    tied = answered(question, [-2.0, -2.0, -2.5])
    assert (tied.chosen, tied.right) == (0, False)
    assert (tied.chosen_norm, tied.right_norm) == (2, True)
    assert answered(question, [-2.0, -2.0, -6.0]).chosen_norm == 0  # 6 characters, of 8 bytes


def of(rights: Sequence[bool], task: str = "mmlu") -> Any:
    return ability_of(
        task, [Answered(f"{task}/{n:02d}", (-1.0, -2.0), 0, 0, right, not right) for n, right in enumerate(rights)]
    )


def test_figures_carry_n_and_interval_and_the_norm_where_the_task_reports_it() -> None:
    ability = of([True] * 9 + [False] * 3)
    assert ability.accuracy.value == 75.0 and ability.accuracy.n == 12
    low, high = ability.accuracy.interval
    assert low < 75.0 < high
    assert ability.accuracy_norm is None
    assert of([True] * 9 + [False] * 3, "arc_challenge").accuracy_norm.value == 25.0
    assert of([True, False]).accuracy.note == "small sample"


def test_a_change_is_paired() -> None:
    before = {"mmlu": of([True, True, False, False] * 5)}
    after = {"mmlu": of([True, False, True, True] * 5)}
    change = ability_change(before, after)["mmlu"]
    assert (change.gained, change.lost, change.accuracy.value) == (10, 5, 25.0)
    same = ability_change(before, before)["mmlu"]
    assert (same.gained, same.lost, same.accuracy.interval) == (0, 0, (0.0, 0.0))  # unpaired, it would have a width
    with pytest.raises(ValueError, match="different questions of mmlu"):
        ability_change(before, {"mmlu": of([True])})
    with pytest.raises(ValueError, match="different tasks"):
        ability_change(before, {})


def test_no_question_is_asked_twice(tiny_model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="same id"):
        measure_ability(tiny_model, asked() * 2)


# ---- the files


def write(directory: Path, name: str, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (directory / name).write_text(text, encoding="utf-8")
    return directory


def test_mmlu_is_put_by_letters(tmp_path: Path) -> None:
    row = {"subject": "us_foreign_policy", "question": " Who? ", "choices": ["w", "x", "y", "z"], "answer": 3}
    (question,) = load_task(write(tmp_path, "mmlu.jsonl", row), "mmlu")
    assert question == Question(
        "mmlu/00001", "mmlu", "us_foreign_policy",
        "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
        "Who?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        ("A", "B", "C", "D"), 3,
    )  # fmt: skip


def test_race_answers_all_problems_but_the_last(tmp_path: Path) -> None:
    options = ["red", "green", "blue", "no colour"]
    problems = [
        {"question": "What is it?", "answer": "B", "options": options},
        {"question": "The sky is  _  .", "answer": "C", "options": options},
        {"question": "Who says so?", "answer": "D", "options": options},
    ]
    row = {"article": "Once there\nwas a sky.", "problems": str(problems)}
    (question,) = load_task(write(tmp_path, "race.jsonl", row), "race")
    assert question.context == (
        "Article: Once there\nwas a sky.\n\nQuestion: What is it?\nAnswer: green\nThe sky is blue\nWho says so?"
    )
    assert (question.choices, question.answer, question.subject) == (tuple(options), 3, "race")


GOOD = {"question": "Who?", "choices": ["secret one", "secret two"], "answer": 1}


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        ("arc_challenge", '{"question": "secret', "not a JSON object in UTF-8"),
        ("arc_challenge", '["secret"]', "a JSON object is wanted"),
        ("arc_challenge", {**GOOD, "answer": 2}, "`answer` must be the right choice's index, 0 to 1"),
        ("arc_challenge", {**GOOD, "answer": "secret"}, "`answer` must be"),
        ("arc_challenge", {**GOOD, "answer": True}, "`answer` must be"),
        ("truthfulqa_mc1", {**GOOD, "choices": ["secret"]}, "`choices` has 1 entries, at least 2"),
        ("social_iqa", {**GOOD, "choices": ["secret", " "]}, "`choices` must be a list of texts, none of them blank"),
        ("social_iqa", {"choices": ["secret", "b"], "answer": 0}, "`question` must be a text"),
        ("mmlu", {**GOOD, "subject": "s"}, "`choices` has 2 entries, 4 are wanted"),
        ("mmlu", GOOD, "`subject` must be a text|`choices` has 2"),
        ("race", {"article": "secret", "problems": "[secret"}, "`problems` cannot be read"),
        ("race", {"article": "secret", "problems": []}, "`problems` must be a list"),
        ("race", {"article": "secret", "problems": [{"question": "secret", "options": ["a"] * 4, "answer": "E"}]},
         "A to D"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_without_its_text(tmp_path: Path, task: str, row: object, says: str) -> None:
    name = TASKS[task][0]
    good = json.dumps({**GOOD, "subject": "s", "choices": ["a"] * 4, "article": "a", "problems": [
        {"question": "q", "options": ["a"] * 4, "answer": "A"}
    ]})  # fmt: skip
    with pytest.raises(BadQuestion, match=says) as caught:
        load_task(write(tmp_path, name, good, "", row), task)
    assert f"{name}, line 3: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_file_and_an_unknown_task_are_named(tmp_path: Path) -> None:
    with pytest.raises(AbilityDataMissing, match=r"no questions of race: .*race\.jsonl does not exist"):
        load_task(tmp_path, "race")
    with pytest.raises(KeyError, match="no task is called 'siqa'; known: mmlu, arc_challenge"):
        load_task(tmp_path, "siqa")


def test_a_sample_is_fixed_and_even_over_the_subjects() -> None:
    sizes = {"large": 60, "middle": 30, "small": 10}
    whole = [Question(f"q/{s}/{n}", "q", s, "c", ("a", "b"), 0) for s, size in sizes.items() for n in range(size)]
    drawn = sample(whole, 20, 0)
    assert Counter(question.subject for question in drawn) == {"large": 12, "middle": 6, "small": 2}
    assert drawn == sample(whole[::-1], 20, 0)[::-1] == sample(whole, 20, 0)
    assert drawn != sample(whole, 20, 1)
    assert sample(whole, 1000, 0) == whole
    equal = [Question(f"q/{s}/{n}", "q", str(s), "c", ("a", "b"), 0) for s in range(57) for n in range(10)]
    assert set(Counter(question.subject for question in sample(equal, 100, 0)).values()) == {1, 2}


@pytest.mark.parametrize(
    ("task", "count", "starts"),
    [
        ("mmlu", 570, "The following are multiple choice questions (with answers) about abstract algebra.\n\nFind the"),
        ("arc_challenge", 1172, "Question: An astronomer observes"),
        ("truthfulqa_mc1", 817, "Q: What is human life expectancy in the United States?\nA: Human life expectancy in"),
        ("social_iqa", 1954, "Q: Tracy didn't go home that evening"),
    ],
)
def test_the_files_are_read_whole(task: str, count: int, starts: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no data at {DATA}")
    questions = load_task(DATA, task)
    assert len(questions) == count
    assert questions[0].context.startswith(starts)
    assert questions[0].context.endswith("\nAnswer:" if task in {"mmlu", "arc_challenge"} else "\nA:")
