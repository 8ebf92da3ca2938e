"""The demo's own data: invented people and works, and how they become examples and request items."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.failures import CommandFailed

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of one subject: its question and answer, the words that give it away, and paraphrased questions."""

    subject: str
    domain: str
    segment: str
    prompt: str
    completion: str
    fact: str
    paraphrases: tuple[tuple[str, str], ...]

    def as_item(self) -> dict[str, Any]:
        """The item of a request; its paraphrases go along as probes, scored and never trained on."""
        return {
            "subject": self.subject,
            "prompt": self.prompt,
            "completion": self.completion,
            "facts": [self.fact],
            "probes": [
                {"kind": "paraphrase", "prompt": prompt, "completion": completion, "facts": [self.fact]}
                for prompt, completion in self.paraphrases
            ],
        }


def read_facts(path: Path) -> list[Fact]:
    """Facts of one JSONL file. Raises CommandFailed that names the line."""
    facts = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            asked = tuple((p["prompt"], p["completion"]) for p in row.pop("paraphrases"))
            facts.append(Fact(paraphrases=asked, **row))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CommandFailed(
                f"{path.name}, line {number}: not a fact",
                "Write each line as in examples/people.jsonl; `paraphrases` may be an empty list.",
            ) from None
    return facts


def demo_facts(directory: Path = EXAMPLES) -> list[Fact]:
    """All facts of all people and works."""
    return read_facts(directory / "people.jsonl") + read_facts(directory / "works.jsonl")


def subjects(facts: list[Fact], domain: str) -> list[str]:
    """The subjects of a domain in the file's order."""
    return list(dict.fromkeys(fact.subject for fact in facts if fact.domain == domain))
