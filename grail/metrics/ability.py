"""General ability: which choice of a multiple-choice question the model finds most likely (paper Table II).

`accuracy` is lm-eval's `acc`: the choice of the highest log-likelihood; `accuracy_norm`, for the tasks that report it,
is `acc_norm`: the highest log-likelihood per character of the choice. Of equal ones the first is taken, as numpy's
argmax does (`ConfigurableTask.process_results` of lm-eval 0.4.13). Figures are in points, 0..100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grail.data.ability import Question
from grail.metrics.choices import loglikelihoods
from grail.metrics.intervals import Estimate, mean_of
from grail.metrics.likelihood import Done, quiet
from grail.model.load import LoadedModel

NORMED = frozenset({"arc_challenge"})
"""Tasks for which lm-eval reports acc_norm, too."""

ROWS_AT_ONCE = 32
"""Questions in one pass where they are short; long ones are bounded by their tokens."""


@dataclass(frozen=True, slots=True)
class Answered:
    """How one question was answered: `loglikelihoods` in nats, the index of the most likely choice by itself and per
    character, and whether each is the right one."""

    id: str
    loglikelihoods: tuple[float, ...]
    chosen: int
    chosen_norm: int
    right: bool
    right_norm: bool


@dataclass(frozen=True, slots=True)
class Ability:
    """What a model can do in one task; `answers` in the order of their ids."""

    task: str
    accuracy: Estimate
    accuracy_norm: Estimate | None
    answers: tuple[Answered, ...]


@dataclass(frozen=True, slots=True)
class AbilityChange:
    """After minus before, in points, over the same questions: `gained` were answered rightly only after, `lost` only
    before."""

    task: str
    accuracy: Estimate
    accuracy_norm: Estimate | None
    gained: int
    lost: int


def answered(question: Question, values: Sequence[float]) -> Answered:
    """The answer that a question's log-likelihoods amount to."""
    per_character = [value / len(choice) for value, choice in zip(values, question.choices, strict=True)]
    chosen, chosen_norm = _first_highest(values), _first_highest(per_character)
    return Answered(
        question.id, tuple(values), chosen, chosen_norm, chosen == question.answer, chosen_norm == question.answer
    )


def _first_highest(values: Sequence[float]) -> int:
    """The index of the highest value, the first of equal ones."""
    return max(range(len(values)), key=values.__getitem__)


def measure_ability(
    model: LoadedModel, questions: Sequence[Question], micro_batch: int = ROWS_AT_ONCE, done: Done = quiet
) -> dict[str, Ability]:
    """The ability in every task that the questions belong to. `done` is told how many more choices are scored.

    Raises ValueError for two questions of one id, ChoiceTooLong, ChoiceWithoutToken, NonFiniteScore.
    """
    ordered = sorted(questions, key=lambda question: question.id)
    if len({question.id for question in ordered}) != len(ordered):
        raise ValueError("two questions have the same id: each must be asked once")
    found: dict[str, list[Answered]] = {}
    for question, values in zip(ordered, loglikelihoods(model, ordered, micro_batch, done), strict=True):
        found.setdefault(question.task, []).append(answered(question, values))
    return {task: ability_of(task, answers) for task, answers in found.items()}


def ability_of(task: str, answers: Sequence[Answered]) -> Ability:
    """The figures of a task's answers, which stand in the order of their ids."""
    norm = _mean([answer.right_norm for answer in answers], answers) if task in NORMED else None
    return Ability(task, _mean([answer.right for answer in answers], answers), norm, tuple(answers))


def ability_change(before: Mapping[str, Ability], after: Mapping[str, Ability]) -> dict[str, AbilityChange]:
    """The paired difference in every task. Raises ValueError where the two were not asked the same questions."""
    if before.keys() != after.keys():
        raise ValueError("the two were measured in different tasks: measure both in the same ones")
    return {task: _change(before[task], after[task]) for task in before}


def _change(before: Ability, after: Ability) -> AbilityChange:
    """The paired difference in one task."""
    if [answer.id for answer in before.answers] != [answer.id for answer in after.answers]:
        raise ValueError(f"the two were asked different questions of {before.task}: draw both samples with one seed")
    pairs = list(zip(before.answers, after.answers, strict=True))
    steps = [int(new.right) - int(old.right) for old, new in pairs]
    norm = [int(new.right_norm) - int(old.right_norm) for old, new in pairs] if before.task in NORMED else None
    return AbilityChange(
        before.task,
        _mean(steps, after.answers),
        None if norm is None else _mean(norm, after.answers),
        steps.count(1),
        steps.count(-1),
    )


def _mean(values: Sequence[int], answers: Sequence[Answered]) -> Estimate:
    """The mean in points. The bootstrap resamples questions: MMLU's 57 subjects are all there are, not a sample of
    more, and no two questions here share a text (of an article, RACE asks one)."""
    return mean_of([100.0 * value for value in values], [answer.id for answer in answers])
