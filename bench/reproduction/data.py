"""The data sets of the reproduction as examples, and how they are split into halves by subject.

`knowundo`: the privacy people of KnowUnDo (read from beside the project) and the project's own 25 invented novels.
`lume`: both domains of LUME (SemEval-2025 task 4), a fixed part of its documents. A `*_train` row is what a request
contains (trained on); a `*_val` row is another question of the same scope, which nobody's request names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grail.types import Example, Role, Segment
from reproduction.hub import read_domain

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
NOVELS = ROOT / "bench" / "data" / "novels"
PARTS = ("forget_train", "forget_val", "retain_train", "retain_val")
LUME_DOCUMENTS = {"privacy": 30, "copyright": 40}
"""Documents of each segment that are used: all of them would take an hour to teach on two cores."""
LUME_WORDS = 160
"""Rows with more words are left out: at most a few, and each would cost as much as five others."""


class DataAbsent(RuntimeError):
    """A data set does not lie where it is read from."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A data set. Ids read `domain/part/number`, numbers counting within the part in the file's order."""

    name: str
    examples: tuple[Example, ...] = field(repr=False)

    def of(self, subjects: Mapping[str, frozenset[str]], *parts: str) -> list[Example]:
        """Examples of some parts whose subject is among those of its domain, in a fixed order."""
        return [e for e in self.examples if part_of(e) in parts and e.subject in subjects[e.domain]]

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Subjects by domain, in the order in which they first appear."""
        found: dict[str, dict[str, None]] = {}
        for example in self.examples:
            found.setdefault(example.domain, {})[example.subject] = None
        return {domain: list(names) for domain, names in sorted(found.items())}

    def half(self, which: str) -> dict[str, frozenset[str]]:
        """Subjects of a half by domain: `development` (the smaller one, that settings are chosen on), `table` (that
        the tables show) or `all`. Split by a hash of the subject, so that no one chose who is where."""
        halves = {}
        for domain, names in self.subjects.items():
            ordered = sorted(names, key=lambda name: hashlib.sha256(f"half:{name}".encode()).digest())
            cut = len(ordered) // 2
            chosen = {"development": ordered[:cut], "table": ordered[cut:], "all": ordered}[which]
            halves[domain] = frozenset(chosen)
        return halves


def part_of(example: Example) -> str:
    """`forget_train`, `forget_val`, `retain_train` or `retain_val`."""
    return example.id.split("/")[1]


def corpus(name: str) -> Corpus:
    """The data set `knowundo` or `lume`, or `hub:DIR`, a local copy of the hub's zjunlp/KnowUnDo with both its domains.

    Raises DataAbsent, NotThatFormat, ValueError for another name.
    """
    if name.startswith("hub:"):
        rows = {domain: read_domain(Path(name.removeprefix("hub:")), domain) for domain in LUME_DOCUMENTS}
        return Corpus("hub", tuple(example for domain in rows for example in _examples(domain, rows[domain])))
    if name == "knowundo":
        privacy = _read(SHARED / "knowundo_privacy", "")
        return Corpus(name, (*_examples("privacy", privacy), *_examples("copyright", _read(NOVELS, ""))))
    if name == "lume":
        rows = {domain: _some(_read(SHARED / "lume", f"{domain}_"), count) for domain, count in LUME_DOCUMENTS.items()}
        return Corpus(name, tuple(example for domain in rows for example in _examples(domain, rows[domain])))
    raise ValueError(f"there is no data set {name}: knowundo or lume")


def general() -> list[Example]:
    """Instructions of general knowledge (self-instruct seeds): what out-of-distribution methods retain."""
    rows = list(_lines(SHARED / "general" / "self_instruct.jsonl"))
    return [
        Example(
            f"general/retain_train/{number:04d}", "general", Segment.RETAIN, f"general-{number}",
            f"{row['instruction']}\n{row['input']}".strip(), row["output"],
        )
        for number, row in enumerate(rows)
        if row["output"].strip() and len(f"{row['instruction']} {row['input']} {row['output']}".split()) <= LUME_WORDS
    ]  # fmt: skip


Rows = dict[str, list[dict[str, Any]]]


def _read(directory: Path, prefix: str) -> Rows:
    return {part: list(_lines(directory / f"{prefix}{part}.jsonl")) for part in PARTS}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataAbsent(f"{path.name} is not there: this part needs {path.parent.name} beside the project")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _some(rows: Rows, documents: int) -> Rows:
    """The first `documents` subjects of each segment by a hash of their names, without very long rows."""
    kept: Rows = {}
    for segment in ("forget", "retain"):
        names = {row["subject"] for row in rows[f"{segment}_train"]}
        chosen = set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:documents])
        for part in (f"{segment}_train", f"{segment}_val"):
            kept[part] = [
                row
                for row in rows[part]
                if row["subject"] in chosen and len(f"{row['prompt']} {row['completion']}".split()) <= LUME_WORDS
            ]
    return kept


def _examples(domain: str, rows: Rows) -> Iterable[Example]:
    roles = {"forget_val": Role.MEASURE, "retain_val": Role.KEEP}
    for part in PARTS:
        segment = Segment(part.split("_")[0])
        for number, row in enumerate(rows[part]):
            yield Example(
                f"{domain}/{part}/{number:04d}", domain, segment, row["subject"], row["prompt"], row["completion"],
                role=roles.get(part, Role.ITEM), request="asked" if part == "forget_train" else None,
            )  # fmt: skip
