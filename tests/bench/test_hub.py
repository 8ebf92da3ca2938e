"""The loader of the hub's KnowUnDo, on a local copy of its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reproduction.hub import NotThatFormat, read_domain


def split(kind: str, people: list[str], part: str) -> list[dict[str, str]]:
    questions = ("Where does {} live?", "What is {}'s email?", "Who is {}?", "When was {} born?", "Did {} win?")
    return [{"text": q.format(p), "labels": f"{kind} {part} {p} {n}"} for p in people for n, q in enumerate(questions)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    people = ["Ada Maria Stone", "Omar Reed", "Ngozi van der Berg"]
    for name, is_list in (("unlearn", True), ("retention", False)):
        record = {part: split(name, people, part) for part in ("train", "val")}
        path = tmp_path / "privacy" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([record] if is_list else record), encoding="utf-8")
    return tmp_path


def test_a_copy_becomes_the_four_parts_with_subjects(copy: Path) -> None:
    parts = read_domain(copy, "privacy")
    assert {name: len(rows) for name, rows in parts.items()} == dict.fromkeys(
        ("forget_train", "forget_val", "retain_train", "retain_val"), 15
    )
    assert parts["forget_val"][0]["completion"] == "unlearn val Ada Maria Stone 0"
    assert parts["retain_train"][0]["completion"] == "retention train Ada Maria Stone 0"
    for rows in parts.values():
        assert {row["subject"] for row in rows} == {"Ada Maria Stone", "Omar Reed", "Ngozi van der Berg"}
        assert all(row["subject"] in row["prompt"] for row in rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "the fields train and val"),
        ("[]", "the fields train and val"),
        ("not json", "the fields train and val"),
        ('{"train": [{"text": "secret words"}], "val": []}', "unlearn.json, train, row 0: text and labels"),
    ],
)
def test_another_format_is_refused_without_showing_its_text(copy: Path, text: str, words: str) -> None:
    (copy / "privacy" / "unlearn.json").write_text(text, encoding="utf-8")
    with pytest.raises(NotThatFormat, match=words) as caught:
        read_domain(copy, "privacy")
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_named(copy: Path) -> None:
    with pytest.raises(OSError, match=r"copyright.unlearn\.json"):
        read_domain(copy, "copyright")
