"""Report documents for tests: the realistic sample, and what else a job may end as."""

from __future__ import annotations

import copy
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pypdf import PdfReader

from app.reports.schemas import Issued
from app.trust.canonical import digest

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SAMPLE, SAMPLE_OF_BEFORE = FIXTURES / "report_document.json", FIXTURES / "report_document_v1.json"
FORGET_GROUPS = ("forget", "forget_paraphrase", "forget_unrequested")
BEHIND = {"replica_id": "edge-7", "version": 41, "acknowledged_at": "2026-11-23T10:00:00+00:00"}


class Reader(HTMLParser):
    """Collects what a reader sees, every tag, and every attribute."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.texts.append(data)


def read_html(content: bytes) -> Reader:
    reader = Reader()
    reader.feed(content.decode())
    reader.close()
    return reader


def text_of_html(content: bytes) -> str:
    return " ".join(" ".join(read_html(content).texts).split())


def text_of_pdf(content: bytes) -> str:
    """In one line; ids that were broken at a hyphen are whole again."""
    text = " ".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages)
    return " ".join(text.replace("\u200b", "").split()).replace("- ", "-")


def sample(path: Path = SAMPLE) -> dict[str, Any]:
    """A published job: two privacy and two copyright requests, as the document was issued."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    del document["replicas_not_acknowledged"]
    return document


def of_before() -> dict[str, Any]:
    """The same as it was issued before there were controls and general ability in it."""
    return sample(SAMPLE_OF_BEFORE)


def issued(document: dict[str, Any], state: str = "published", *replicas: dict[str, Any]) -> Issued:
    return Issued(document, digest(document), state, replicas)


def with_basis(text: str) -> dict[str, Any]:
    """The sample with what a person wrote as the legal basis of its first request."""
    document = sample()
    document["requests"][0]["legal_basis"] = text
    return document


def rejected() -> dict[str, Any]:
    """Retention in one domain fell just below its bound: so little that one digit does not show it."""
    document = sample()
    check = next(c for c in document["gate"]["checks"] if c["name"] == "min_rs")
    check["value"], check["ok"] = 84.97, False
    document["gate"]["ok"] = False
    return document


def rejected_for_a_request(position: int) -> dict[str, Any]:
    """One request's own check did not hold; all others did."""
    document = sample()
    request = document["requests"][position]
    for checks in (document["gate"]["checks"], request["checks"]):
        check = next(c for c in checks if c["scope"] == f"request {request['id']}")
        check["value"], check["ok"] = 12.5, False
    document["gate"]["ok"] = False
    return document


def in_base_only() -> dict[str, Any]:
    """The base model knows all that was to be forgotten: nothing was trained, nothing is certified."""
    document = sample()
    for domain, counts in document["data"].items():
        counts["forget_items_in_base"] = counts["forget_items"]
        for group in FORGET_GROUPS:
            document["metrics"][domain].pop(group, None)
        for figures in document["summary"][domain].values():
            figures.update(us=None, hs=None, cus=None, chs=None, avg_success=None)
    for request in document["requests"]:
        request.update(in_base=request["forget_items"], outcome="in base")
        request["metrics"].update(cus=None, us=None, us_ref=None, forget_gap=None)
        request["checks"] = [_not_certified(f"request {request['id']}", request["forget_items"])]
    document["gate"]["checks"] = [
        *(_not_certified(domain, counts["forget_items"]) for domain, counts in document["data"].items()),
        *(check for request in document["requests"] for check in request["checks"]),
    ]
    for example in document["examples"]:
        if example["segment"] == "forget" and example["role"] in ("item", "paraphrase"):
            example["outcome"] = "in_base"
    document["training"] = {
        "steps": 0, "planned_steps": 0, "kept_step": 0, "stopped_early": None, "losses": [], "checkpoints": [],
    }  # fmt: skip
    document["model"]["candidate_adapter"] = None
    return without_regions(document)


def _not_certified(scope: str, count: int) -> dict[str, Any]:
    return {
        "name": "certified_forget_items", "scope": scope, "value": 0.0, "bound": 0.0, "comparison": ">=", "ok": True,
        "n": count, "interval": None,
    }  # fmt: skip


def without_regions(document: dict[str, Any] | None = None) -> dict[str, Any]:
    document = sample() if document is None else document
    document["regions"] = {
        "op_ur": {"count": 0, "share": 0.0}, "op_rr": {"count": 0, "share": 0.0},
        "jaccard": {"labels": [], "whole": [], "layers": []},
    }  # fmt: skip
    return document


def infinite_perplexity() -> dict[str, Any]:
    """Both ways of being endless: the value, and only its interval."""
    document = sample()
    measured = document["metrics"]["privacy"]
    measured["forget"]["perplexity"]["after"] |= {"value": None, "text": "inf", "note": "the interval is not finite"}
    measured["retain"]["perplexity"]["after"] |= {"interval": None, "note": "the interval is not finite"}
    check = next(c for c in document["gate"]["checks"] if c["name"] == "max_ppl_ratio" and c["scope"] == "privacy")
    check["value"], check["ok"] = 1.0142320547350045e304, False
    document["gate"]["ok"] = False
    return document


def unfinished() -> dict[str, Any]:
    """As it is issued while the job still runs, without free answers, without a candidate, without a reference text."""
    document = sample()
    document["job"].update(finished_at=None, started_at=None)
    document["model"].update(candidate_adapter=None, note=None)
    for example in document["examples"]:
        for when in ("before", "after", "reference"):
            example[when].update(rouge_l_free=None, fact=None)
    nothing = {"value": None, "text": None, "n": 0, "subjects": 0, "interval": None, "note": None}
    for groups in document["metrics"].values():
        for measures in groups.values():
            for name in ("rouge_l_free", "fact_in_answer"):
                measures[name] = {when: dict(nothing) for when in ("before", "after", "reference")}
    return document


def many_examples(count: int = 500) -> dict[str, Any]:
    document = sample()
    found = document["examples"]
    document["examples"] = [
        {**copy.deepcopy(found[n % len(found)]), "id": f"0199f3a1-0000-7000-8000-{n:012d}"} for n in range(count)
    ]
    return document


VARIANTS = {
    "published": (sample, "published"),
    "awaiting approval": (sample, "awaiting_approval"),
    "turned down": (sample, "rejected"),
    "publishing failed": (sample, "failed"),
    "evaluated": (sample, "evaluated"),
    "rejected": (rejected, "rejected"),
    "in base only": (in_base_only, "published"),
    "no regions": (without_regions, "published"),
    "infinite perplexity": (infinite_perplexity, "rejected"),
    "unfinished": (unfinished, "evaluated"),
}
