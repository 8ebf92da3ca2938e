"""The charts of a report, and what each shows in words. Pure: a document in, charts out; None without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.reports.blocks import Chart
from app.reports.charts import Bar, BarGroup, Line, bars, heat, lines
from app.reports.words import WHEN, Document, cell_of, measured

WHEN_NAMES = {"before": "before", "after": "after", "reference": "a model that never knew"}
SHOWN = (
    ("forget", "calibrated_success", "Requested facts: calibrated success (cUS)"),
    ("forget", "success", "Requested facts: unlearning success (US)"),
    ("forget_paraphrase", "success", "Requested facts in other words (US)"),
    ("retain", "success", "Facts that are to stay: retention success (RS)"),
    ("forget", "fact_in_answer", "Free answers that hold a requested fact"),
    ("retain", "fact_in_answer", "Free answers that hold a fact that is to stay"),
)
LOSSES = (("forget", "what goes"), ("retain", "what stays"))
OVERLAP = "Overlap of the sets' most important entries (Jaccard index, 0 to 1)"
SCORES = (("chs", "cHS"), ("cus", "cUS"), ("rs", "RS"))


def successes(document: Document, domain: str) -> Chart | None:
    """Bars of the shares of one domain: before, after, and under a model that never knew."""
    groups, words = [], []
    for group, measure, label in SHOWN:
        found = {when: cell_of(document, domain, group, measure, when) for when in WHEN}
        shown = [_bar(when, cell) for when, cell in found.items() if cell is not None]
        if shown:
            groups.append(BarGroup(label, tuple(shown)))
            words.append(f"{label}: " + ", ".join(f"{WHEN_NAMES[bar.kind]} {bar.text}" for bar in shown))
    if not groups:
        return None
    alt = f"Shares in percent, {domain}. {'; '.join(words)}."
    svg = bars(groups, legend=list(WHEN_NAMES.items()), alt=alt)
    return Chart(domain.capitalize(), svg, alt)


def losses(document: Document) -> Chart | None:
    """The losses of every step, with the step whose adapter was kept."""
    training = document["training"]
    entries, kept = training["losses"], training["kept_step"]
    if not entries:
        return None
    series = [Line(key, label, _points(entries, key)) for key, label in LOSSES]
    alt = f"Mean loss on each side over {len(entries)} noted steps. {_ends(entries, LOSSES)}. Kept: step {kept}."
    svg = lines(series, x_label="step", y_label="loss, nats per token", alt=alt, mark=kept)
    return Chart("Losses while unlearning", svg, alt) if svg else None


def checkpoints(document: Document) -> Chart | None:
    """The scores that the kept checkpoint was chosen by."""
    training = document["training"]
    entries, kept = training["checkpoints"], training["kept_step"]
    if not entries:
        return None
    series = [Line(key, label, _points(entries, key)) for key, label in SCORES]
    alt = f"Scores of {len(entries)} checkpoints in percent. {_ends(entries, SCORES)}. Kept: step {kept}."
    svg = lines(series, x_label="step", y_label="score, %", alt=alt, mark=kept)
    return Chart("Scores of the checkpoints, means over domains", svg, alt) if svg else None


def overlap(regions: Mapping[str, Any]) -> Chart | None:
    """How much the four sets' most important entries coincide."""
    found = regions["jaccard"]
    labels, whole = found["labels"], found["whole"]
    if not labels:
        return None
    pairs = [
        f"{labels[i]} and {labels[j]} {whole[i][j]:.2f}" for i in range(len(labels)) for j in range(i + 1, len(labels))
    ]
    alt = f"{OVERLAP}: {'; '.join(pairs) or 'one set only'}."
    return Chart(OVERLAP, heat(labels, whole, alt=alt), alt)


def _bar(when: str, cell: Mapping[str, Any]) -> Bar:
    low, high = cell["interval"] or (None, None)
    return Bar(when, cell["value"], low, high, measured(cell)[0])


def _points(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float | None], ...]:
    return tuple((entry["step"], entry.get(key)) for entry in entries)


def _ends(entries: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str]]) -> str:
    ends = [(label, entries[0].get(key), entries[-1].get(key)) for key, label in series]
    return "; ".join(f"{label} from {first:.2f} to {last:.2f}" for label, first, last in ends if first and last)
