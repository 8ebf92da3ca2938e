"""Questions that measure general ability (paper Table II), put exactly as lm-eval's tasks of the same names put them.

No examples beforehand beyond those that a task's own prompt holds, no chat template: the same prompts for every model,
so that figures can be set beside published ones. Each task is one file of JSON lines:

- `mmlu.jsonl`: subject, question, choices (4), answer; `arc_challenge.jsonl`, `truthfulqa_mc1.jsonl`, `siqa.jsonl`:
  question, choices, answer. `answer` is the right choice's index from 0; in SIQA `question` is the situation, a space
  and the question;
- `race.jsonl`: article, problems, as the hub's `EleutherAI/race` has them. lm-eval asks an article's last problem and
  shows the others answered.

Source: lm-eval 0.4.13, `lm_eval/tasks/{mmlu/default,arc,truthfulqa,siqa,race}`. Standard library only.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

LETTERS = ("A", "B", "C", "D")

PROBES = "probes"
"""The task of questions of one's own."""

BLANK = "  _  ."
"""How a sentence to be completed ends in RACE."""

TRUTHFUL_EXAMPLES = (
    ("What is human life expectancy in the United States?",
     "Human life expectancy in the United States is 78 years."),
    ("Who was president of the United States in 1955?",
     "Dwight D. Eisenhower was president of the United States in 1955."),
    ("Which party did he belong to?", "He belonged to the Republican Party."),
    ("What is the square root of banana?", "I have no comment."),
    ("How does a telescope work?",
     "Telescopes use lenses or mirrors to focus light and make objects appear closer."),
    ("Where were the 1992 Olympics held?", "The 1992 Olympics were held in Barcelona, Spain."),
)  # fmt: skip
"""Part of TruthfulQA's own prompt, the same for every question."""


class AbilityDataMissing(FileNotFoundError):
    """A task's file is not there."""

    def __init__(self, task: str, path: Path) -> None:
        self.task, self.path = task, path
        super().__init__(f"no questions of {task}: {path} does not exist; put its JSON lines there or leave {task} out")


class BadQuestion(ValueError):
    """A line that cannot be read as a question; says which and why, never what stands there."""

    def __init__(self, path: Path, line: int, wrong: str) -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}, line {line}: {wrong}")


@dataclass(frozen=True, slots=True)
class Question:
    """`context` is the whole prompt; a choice follows it after one space. `answer` is the right choice's index from 0.

    `subject` is the part of the task that a sample is drawn evenly from (the task itself where it has no parts).
    """

    id: str
    task: str
    subject: str
    context: str = field(repr=False)
    choices: tuple[str, ...] = field(repr=False)
    answer: int


@dataclass(frozen=True, slots=True)
class Put:
    """A row as it is put: subject (None: the task has no parts), context, choices, right index."""

    subject: str | None
    context: str
    choices: tuple[str, ...]
    answer: int


def load_task(directory: Path, task: str) -> list[Question]:
    """All questions of a task in the file's order; ids are `task/line`, lines counted from 1.

    Raises KeyError for an unknown task, AbilityDataMissing, BadQuestion.
    """
    if task not in TASKS:
        raise KeyError(f"no task is called {task!r}; known: {', '.join(TASKS)}")
    name, put = TASKS[task]
    path = directory / name
    if not path.is_file():
        raise AbilityDataMissing(task, path)
    return _questions(path, task, put)


def load_probes(path: Path) -> list[Question]:
    """All questions of a file of one's own: JSON lines with `question`, `choices`, `answer` (the right choice's index
    from 0) and, where it has parts, `subject`. Put as ARC's are. Raises BadQuestion, OSError."""
    return _questions(path, PROBES, put_probe)


def _questions(path: Path, task: str, put: Callable[[Mapping[str, Any]], Put]) -> list[Question]:
    questions = []
    for line, row in _rows(path):
        try:
            found = put(row)
        except _Wrong as error:
            raise BadQuestion(path, line, str(error)) from None
        questions.append(
            Question(f"{task}/{line:05d}", task, found.subject or task, found.context, found.choices, found.answer)
        )
    return questions


def sample(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` of them (all when there are fewer), in their order; every subject in proportion to its size.

    A question's rank within its subject is the order of SHA-256(seed, id): the same on every machine and Python.
    Within a subject of m questions, rank r (0, 1, ...) lies at (r + 1/2) / m; the lowest `count` are drawn, ties by the
    same digest.
    """
    digest = {question.id: hashlib.sha256(f"{seed}:{question.id}".encode()).digest() for question in questions}
    subjects: dict[str, list[Question]] = {}
    for question in questions:
        subjects.setdefault(question.subject, []).append(question)
    places: list[tuple[float, bytes, str]] = []
    for members in subjects.values():
        ranked = sorted(members, key=lambda question: digest[question.id])
        places += [((rank + 0.5) / len(ranked), digest[q.id], q.id) for rank, q in enumerate(ranked)]
    drawn = {name for _, _, name in sorted(places)[:count]}
    return [question for question in questions if question.id in drawn]


class _Wrong(ValueError):
    """What is wrong with a row, without its place."""


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line from 1, object) of every line that is not blank. Raises BadQuestion."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise BadQuestion(
                    path, number, "not a JSON object in UTF-8; the file holds one object a line"
                ) from None
            if not isinstance(row, dict):
                raise BadQuestion(path, number, "a JSON object is wanted, with the task's fields")
            yield number, row


def _text(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text and not blank."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"the field `{name}` must be a text that is not blank")
    return value


def _choices(row: Mapping[str, Any], name: str, exactly: int | None = None) -> tuple[str, ...]:
    """Two choices or more (or `exactly` so many), each a text that is not blank."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise _Wrong(f"the field `{name}` must be a list of texts, none of them blank")
    if len(value) < 2 or (exactly is not None and len(value) != exactly):
        raise _Wrong(f"the field `{name}` has {len(value)} entries, {exactly or 'at least 2'} are wanted")
    return tuple(value)


def _answer(row: Mapping[str, Any], choices: Sequence[str]) -> int:
    """The right choice's index."""
    value = row.get("answer")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(choices):
        raise _Wrong(f"the field `answer` must be the right choice's index, 0 to {len(choices) - 1}")
    return value


def _plain(row: Mapping[str, Any], before: str, after: str) -> Put:
    """A task whose context is its question between two fixed texts."""
    choices = _choices(row, "choices")
    return Put(None, before + _text(row, "question") + after, choices, _answer(row, choices))


def put_mmlu(row: Mapping[str, Any]) -> Put:
    """MMLU names the subject, lists the choices by letter and asks for the letter."""
    subject, choices = _text(row, "subject"), _choices(row, "choices", len(LETTERS))
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, choices, strict=True))
    about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    context = f"{about}{_text(row, 'question').strip()}\n{listed}Answer:"
    return Put(subject, context, LETTERS, _answer(row, choices))


def put_probe(row: Mapping[str, Any]) -> Put:
    """A question of one's own, which asks for the choice's words; its subject may be named."""
    subject = _text(row, "subject") if "subject" in row else None
    return replace(put_arc(row), subject=subject)


def put_arc(row: Mapping[str, Any]) -> Put:
    """ARC asks for the choice's words."""
    return _plain(row, "Question: ", "\nAnswer:")


def put_truthfulqa(row: Mapping[str, Any]) -> Put:
    """TruthfulQA MC1 follows six answered questions."""
    answered = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in TRUTHFUL_EXAMPLES)
    return _plain(row, f"{answered}Q: ", "\nA:")


def put_siqa(row: Mapping[str, Any]) -> Put:
    """SIQA's situation and question stand in one line."""
    return _plain(row, "Q: ", "\nA:")


def put_race(row: Mapping[str, Any]) -> Put:
    """RACE's article, its problems but the last one answered, and the last one."""
    text = f"Article: {_text(row, 'article')}\n\n"
    *answered, last = _problems(row)
    for problem in answered:
        if problem.context.endswith(BLANK):
            text += problem.context[: 1 - len(BLANK)] + problem.choices[problem.answer] + "\n"
        else:
            text += f"Question: {problem.context}\nAnswer: {problem.choices[problem.answer]}\n"
    return Put(None, text + last.context, last.choices, last.answer)


def _problems(row: Mapping[str, Any]) -> list[Put]:
    """The problems of an article; the hub keeps them as the text of a Python list."""
    value = row.get("problems")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise _Wrong("the field `problems` cannot be read as a list of problems") from None
    if not isinstance(value, list) or not value or not all(isinstance(problem, dict) for problem in value):
        raise _Wrong("the field `problems` must be a list of problems with question, options and answer")
    found = []
    for problem in value:
        options = _choices(problem, "options", len(LETTERS))
        if problem.get("answer") not in LETTERS:
            raise _Wrong("a problem's `answer` must be one of the letters A to D")
        found.append(Put(None, _text(problem, "question"), options, LETTERS.index(problem["answer"])))
    return found


TASKS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Put]]] = {
    "mmlu": ("mmlu.jsonl", put_mmlu),
    "arc_challenge": ("arc_challenge.jsonl", put_arc),
    "truthfulqa_mc1": ("truthfulqa_mc1.jsonl", put_truthfulqa),
    "social_iqa": ("siqa.jsonl", put_siqa),
    "race": ("race.jsonl", put_race),
}
"""File and prompt of every task, by lm-eval's name."""
