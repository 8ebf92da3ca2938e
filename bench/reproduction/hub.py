"""The hub's `zjunlp/KnowUnDo`, from a local copy of its files: no network is asked.

For each domain (`privacy`, `copyright`) two splits, `unlearn` and `retention`; a split is ONE record whose fields
`train` and `val` are lists of {"text": question, "labels": answer}. A copy lies as `DIR/<domain>/<split>.json`, the
record as it is or as the only element of a list.

The benchmark names no subject in its records. Here a row's subject is the name that it shares with most other rows:
the run of capitalised words that most questions of the domain hold, at least NAMED_BY. Rows without one are subjects of
their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPLITS = {"unlearn": "forget", "retention": "retain"}
NAMED_BY = 4
NAME = re.compile(r"[A-Z][\w'’.-]*(?: (?:[A-Z][\w'’.-]*|of|the|and|de|der|van|von))* [A-Z][\w'’.-]*")

Rows = dict[str, list[dict[str, Any]]]


class NotThatFormat(ValueError):
    """A file that is not a split of the hub's data set; says which and what is missing, never its text."""


def read_domain(directory: Path, domain: str) -> Rows:
    """The parts of one domain: forget_train, forget_val, retain_train, retain_val, rows of subject, prompt, completion.

    Raises OSError for a missing file, NotThatFormat.
    """
    parts = {
        f"{segment}_{part}": list(_rows(directory / domain / f"{split}.json", part))
        for split, segment in SPLITS.items()
        for part in ("train", "val")
    }
    subject_of = _subjects([prompt for rows in parts.values() for prompt, _ in rows])
    return {
        name: [{"subject": subject_of[prompt], "prompt": prompt, "completion": answer} for prompt, answer in rows]
        for name, rows in parts.items()
    }


def _rows(path: Path, part: str) -> Iterator[tuple[str, str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        record = found[0] if isinstance(found, list) else found
        rows = record[part]
    except (ValueError, KeyError, IndexError, TypeError):
        raise NotThatFormat(f"{path.name}: one JSON record with the fields train and val is expected") from None
    for number, row in enumerate(rows):
        if not (isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("labels"), str)):
            raise NotThatFormat(f"{path.name}, {part}, row {number}: text and labels are expected")
        if row["labels"].strip():
            yield row["text"], row["labels"]


def _subjects(prompts: list[str]) -> dict[str, str]:
    """A subject for every question."""
    names = {prompt: {name for whole in NAME.findall(prompt) for name in _runs(whole)} for prompt in prompts}
    held = Counter(name for found in names.values() for name in found)
    chosen = {}
    for prompt, found in names.items():
        shared = (name for name in found if held[name] >= NAMED_BY)
        chosen[prompt] = max(shared, key=lambda name: (held[name], len(name)), default=prompt)
    return chosen


def _runs(name: str) -> Iterator[str]:
    """Every run of at least two words of a capitalised name ("When Samuel Johnson" holds "Samuel Johnson")."""
    words = name.removesuffix("'s").removesuffix("’s").split()
    return (" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 2, len(words) + 1))
