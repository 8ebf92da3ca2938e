"""`grail teach` refuses what it can not use with a word for people, before any model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Grail

FACT = '{"subject": "s", "domain": "privacy", "segment": "forget", "prompt": "p", "completion": "c", "fact": "c"'


@pytest.mark.parametrize("line", [FACT + "}", "[]", "{", "\xff", FACT + ', "paraphrases": [1]}'])
def test_a_line_that_is_no_fact_is_named(grail: Grail, tmp_path: Path, line: str) -> None:
    facts = tmp_path / "mine.jsonl"
    facts.write_bytes((FACT + ', "paraphrases": []}\n' + line + "\n").encode("latin-1"))
    said = grail("teach", "--out", tmp_path / "out", facts, expect=1).err
    assert "mine.jsonl, line 2" in said and "examples/people.jsonl" in said
    assert not (tmp_path / "out").exists()


def test_a_base_without_a_model_and_a_rate_out_of_bounds_are_refused(grail: Grail, tmp_path: Path) -> None:
    assert "config.json" in grail("teach", "--out", tmp_path / "out", "--base", tmp_path, expect=1).err
    grail("teach", "--out", tmp_path / "out", "--learning-rate", "5", expect=2)
