"""The novels keep what a benchmark rests on: equal shares, questions that stand alone, scopes that do not mix."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

NOVELS = Path(__file__).resolve().parents[2] / "bench" / "data" / "novels"
ROWS_PER_BOOK = {"forget_train": 8, "forget_val": 4, "retain_train": 8, "retain_val": 4}
COMPLETION_WORDS = {"forget": (15, 35), "retain": (10, 30)}
BOOKS = 25
SHARED_RUN = 6  # words in a row that a forget and a retain completion may not share
TYPOGRAPHIC = set("–—‘’‚“”„…\u00a0")
NAME_INSIDE_A_SENTENCE = re.compile(r"(?<=[a-z0-9,] )[A-Z][\w'-]+")
SETTINGS = {
    *("Bulgarian", "Danube", "Edinburgh", "Galicia", "Kanazawa"),
    *("Leipzig", "Newfoundland", "Porto", "Toledo", "Welsh"),
}
TABLE_ROW = re.compile(r"^\| (?P<title>[^|]+) \| (?P<author>[^|]+) \| [^|]+ \|$")


class Row(NamedTuple):
    subject: str
    prompt: str
    completion: str


def rows(name: str) -> list[Row]:
    lines = (NOVELS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]


def rows_of_scope(scope: str) -> list[Row]:
    return [row for name in ROWS_PER_BOOK if name.startswith(scope) for row in rows(name)]


def authors() -> dict[str, str]:
    """Title to author, from the last table of the README."""
    table = (NOVELS / "README.md").read_text(encoding="utf-8").split("## The books")[1]
    found = [match for line in table.splitlines() if (match := TABLE_ROW.match(line))]
    return {match["title"]: match["author"] for match in found if match["title"] != "title"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}


ALL = [row for name in ROWS_PER_BOOK for row in rows(name)]


@pytest.mark.parametrize(("name", "share"), ROWS_PER_BOOK.items())
def test_every_book_has_its_share_of_every_file_in_the_order_of_the_readme(name: str, share: int) -> None:
    expected = [title for title in authors() for _ in range(share)]
    assert len(expected) == BOOKS * share
    assert [row.subject for row in rows(name)] == expected


def test_no_question_and_no_answer_stands_twice() -> None:
    assert [text for text, n in Counter(" ".join(words(row.prompt)) for row in ALL).items() if n > 1] == []
    assert [text for text, n in Counter(" ".join(words(row.completion)) for row in ALL).items() if n > 1] == []


def test_no_question_is_that_of_another_book_with_the_names_exchanged() -> None:
    author = authors()
    bare = Counter(row.prompt.replace(row.subject, "TITLE").replace(author[row.subject], "AUTHOR") for row in ALL)
    assert [text for text, n in bare.items() if n > 1] == []


def test_every_question_names_its_book_or_its_author() -> None:
    author = authors()
    assert [row for row in ALL if row.subject not in row.prompt and author[row.subject] not in row.prompt] == []


def test_retained_answers_hold_no_run_of_words_of_a_forgotten_one() -> None:
    retained = {run for row in rows_of_scope("retain") for run in runs(row.completion, SHARED_RUN)}
    forgotten = {run for row in rows_of_scope("forget") for run in runs(row.completion, SHARED_RUN)}
    assert forgotten & retained == set()


@pytest.mark.parametrize("title", authors())
def test_retained_rows_name_nobody_from_the_plot(title: str) -> None:
    """A name from the forget scope of a book may stand in its retain scope only if it is a place on the back cover."""
    forgotten = {
        name
        for row in rows_of_scope("forget")
        if row.subject == title
        for name in NAME_INSIDE_A_SENTENCE.findall(row.completion)
    }
    retained = {
        word
        for row in rows_of_scope("retain")
        if row.subject == title
        for text in (row.prompt, row.completion)
        for word in re.findall(r"[A-Z][\w'-]+", text.replace(title, ""))
    }
    assert forgotten & retained <= SETTINGS


@pytest.mark.parametrize(("scope", "bounds"), COMPLETION_WORDS.items())
def test_completions_are_neither_short_nor_long(scope: str, bounds: tuple[int, int]) -> None:
    least, most = bounds
    assert [row for row in rows_of_scope(scope) if not least <= len(row.completion.split()) <= most] == []


def test_texts_are_whole_sentences_in_plain_typography() -> None:
    assert [row for row in ALL if TYPOGRAPHIC & set(row.prompt + row.completion)] == []
    assert [row.prompt for row in ALL if row.prompt[-1] not in "?."] == []
    assert [row.completion for row in ALL if not row.completion.rstrip('"').endswith((".", "?", "!"))] == []
    assert [row.completion for row in ALL if row.completion.count('"') % 2] == []
