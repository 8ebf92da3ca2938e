"""A report's figures by the two questions of EDPB Opinion 28/2024: can what was erased be extracted from the model, and
can it be obtained by queries? Under each what was measured, and what was not. Pure: a document in, plain values out.

Both likelihoods have to be insignificant for a model to count as anonymous with regard to a person. No report claims
that: it says which figures speak to which question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.reports.words import Document, cell_of, measure_name

EXTRACTION, QUERIES = "extraction", "queries"
PPL_RATIO = "perplexity_ratio"
TITLES = {
    EXTRACTION: "Extraction from the model",
    QUERIES: "Obtaining it by queries",
}
MEANINGS = {
    EXTRACTION: (
        "Whoever has the model can give it the beginning of a text and read how likely it finds each next word. These "
        "figures do that with the very words that were to be forgotten, and compare with a model that never knew them."
    ),
    QUERIES: (
        "Whoever may only ask gets answers. These figures ask the requested questions, as they were put and in other "
        "words, and look for the requested words in the most likely answer."
    ),
}
MEASURED: dict[str, tuple[tuple[str, str], ...]] = {
    EXTRACTION: (
        ("forget", "success"), ("forget", "calibrated_success"), ("forget", "forget_gap"), ("forget", "perplexity"),
        ("forget", PPL_RATIO), ("forget", "rouge_l_forced"), ("forget_earlier", "calibrated_success"),
    ),
    QUERIES: (
        ("forget", "rouge_l_free"), ("forget", "fact_in_answer"), ("forget_paraphrase", "calibrated_success"),
        ("forget_paraphrase", "rouge_l_free"), ("forget_paraphrase", "fact_in_answer"),
    ),
}  # fmt: skip
"""Under each question (group, measure); what a report lacks of it is left out and said to be not tested."""
NEVER_TESTED = {
    EXTRACTION: (
        "No attack that searches with gradients for inputs which bring the words out.",
        "No membership inference: whether one can tell that a text was in the training data.",
        "No attempt to teach the model again, to quantise it or to change its weights otherwise and then extract.",
    ),
    QUERIES: (
        "No sampled answers: only the most likely one to each question.",
        "No prompts built to get around the erasure, no conversations of several turns, no other languages than those "
        "of the questions.",
    ),
}
INTRODUCTION = (
    "The opinion asks two things of a model that is to count as anonymous with regard to a person: that their data can "
    "not be extracted from it, and that they can not be obtained by queries, but for an insignificant likelihood. "
    "These are the figures that speak to the one and to the other. Whether they suffice is for the controller to judge."
)
NO_FREE = "No free answers were generated: what the model says when asked is not known."
NO_PARAPHRASES = "No question was put in other words."
NOTHING = "Nothing was measured: the base model knows all that was to be forgotten, or nothing was to be forgotten."


def figures(document: Document, domain: str, prong: str) -> list[dict[str, Any]]:
    """What was measured of one question in one domain: measure and group with the value before and after, of a model
    that never knew, and n, subjects and interval of the one after."""
    found = (_figure(document, domain, group, measure) for group, measure in MEASURED[prong])
    return [figure for figure in found if figure is not None]


def not_tested(document: Document, domains: Iterable[str], prong: str) -> list[str]:
    """What of one question was not tested, in sentences."""
    said, domains = list(NEVER_TESTED[prong]), list(domains)
    if not any(figures(document, domain, prong) for domain in domains):
        return [NOTHING, *said]
    if prong == QUERIES:
        shown = {(one["group"], one["measure"]) for domain in domains for one in figures(document, domain, prong)}
        said += [] if ("forget", "rouge_l_free") in shown else [NO_FREE]
        said += [] if any(group == "forget_paraphrase" for group, _ in shown) else [NO_PARAPHRASES]
    return said


def name(figure: Mapping[str, Any]) -> str:
    """A figure's measure in plain words."""
    if figure["measure"] == PPL_RATIO:
        return "Perplexity as a multiple of that of a model that never knew"
    return measure_name(figure["measure"], figure["group"])


def _figure(document: Document, domain: str, group: str, measure: str) -> dict[str, Any] | None:
    if measure == PPL_RATIO:
        return _ratio(document, domain, group)
    cells = {when: cell_of(document, domain, group, measure, when) for when in ("before", "after", "reference")}
    after = cells["after"]
    if after is None:
        return None
    return _row(group, measure, {when: _value(cell) for when, cell in cells.items()}, after, after["interval"])


def _ratio(document: Document, domain: str, group: str) -> dict[str, Any] | None:
    """Without an interval: that of the perplexity itself stands beside it."""
    cells = {when: cell_of(document, domain, group, "perplexity", when) for when in ("before", "after", "reference")}
    after, never = cells["after"], cells["reference"]
    if after is None or never is None or not never["value"]:
        return None
    values = {
        when: None if cell is None or cell["value"] is None else cell["value"] / never["value"]
        for when, cell in cells.items()
    }
    return _row(group, PPL_RATIO, values, after, None)


def _value(cell: Mapping[str, Any] | None) -> float | str | None:
    """A figure; `inf` where it is beyond all numbers."""
    if cell is None:
        return None
    found: float | str | None = cell["text"] if cell["value"] is None else cell["value"]
    return found


def _row(
    group: str, measure: str, values: Mapping[str, float | str | None], after: Mapping[str, Any], interval: Any
) -> dict[str, Any]:
    return {
        "group": group, "measure": measure, **values, "n": after["n"], "subjects": after["subjects"],
        "interval": interval, "note": after["note"],
    }  # fmt: skip
