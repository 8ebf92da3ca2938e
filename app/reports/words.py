"""Numbers and findings in words that a data protection officer understands. Pure: a report document in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

UNDEFINED = "n/a"
WHEN = ("before", "after", "reference")
GROUPS = {
    "forget": "Requested facts",
    "forget_paraphrase": "Requested facts, asked in other words",
    "forget_unrequested": "Other facts of the same subjects that nobody asked to remove",
    "retain": "Facts that are to stay",
    "retain_paraphrase": "Facts that are to stay, asked in other words",
    "keep": "Same-subject facts that are to stay",
    "held_out": "Held-out facts that are to stay",
}
MEASURES = {
    "success": "Success",
    "calibrated_success": "Calibrated success (cUS), %",
    "forget_gap": "Forget gap, points",
    "perplexity": "Perplexity",
    "rouge_l_forced": "ROUGE-L, teacher-forced, %",
    "rouge_l_free": "ROUGE-L, free answers, %",
    "fact_in_answer": "Free answers that hold the fact, %",
}
CHECKS = (
    ("cus", "Forgetting: calibrated success"),
    ("rs", "Retention: success on what stays"),
    ("gap", "Over-forgetting: gap to a model that never knew"),
    ("ppl", "Naturalness: perplexity against a model that never knew, ratio"),
    ("perplexity", "Naturalness: perplexity against a model that never knew, ratio"),
)


def number(value: float | None, digits: int = 1) -> str:
    """A figure as people read it; undefined and endless ones in words."""
    if value is None:
        return UNDEFINED
    if not math.isfinite(value):
        return "∞" if value > 0 else UNDEFINED
    if abs(value) >= 100_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10^{int(exponent)}"
    return f"{value:,.{digits}f}".replace("-", "−")


def measured(cell: Mapping[str, Any] | None) -> str:
    """A measured value with its interval: `93.1 (88.2 to 96.8)`; `∞` where the figure overflows."""
    if cell is None:
        return UNDEFINED
    if cell.get("value") is None:
        return "∞" if cell.get("text") == "inf" else UNDEFINED
    interval = cell.get("interval")
    shown = number(cell["value"])
    return shown if not interval else f"{shown} ({number(interval[0])} to {number(interval[1])})"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 request`, `4 requests`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def group_name(group: str) -> str:
    """A group of examples in plain words."""
    return GROUPS.get(group, group.replace("_", " ").capitalize())


def measure_name(measure: str, group: str) -> str:
    """A measure in plain words; success means opposite things for the two segments, so it says which."""
    if measure == "success":
        return "Unlearning success (US), %" if group.startswith("forget") else "Retention success (RS), %"
    return MEASURES.get(measure, measure.replace("_", " ").capitalize())


def check_name(name: str) -> str:
    """A gate check in plain words, with its own name for those who set the bounds."""
    words = name.lower().split("_")
    plain = next((text for key, text in CHECKS if key in words), None)
    return name if plain is None else plain


def scope_name(scope: str) -> str:
    """`privacy` -> `Privacy`; `request <id>` -> `Request <last 12>`."""
    if scope.startswith("request "):
        return f"Request {short_id(scope.removeprefix('request '))}"
    return scope.capitalize()


def short_id(identifier: str | None) -> str:
    """The part of an id that tells rows apart on paper."""
    return UNDEFINED if not identifier else str(identifier)[-12:]


def moment(text: str | None) -> str:
    """`2026-11-24T10:04:41Z` -> `2026-11-24 10:04 UTC`."""
    if not text:
        return UNDEFINED
    day, _, rest = str(text).partition("T")
    zone = " UTC" if rest.endswith(("Z", "+00:00")) else ""
    return f"{day} {rest[:5]}{zone}".strip()


def version_name(adapter: Mapping[str, Any] | None) -> str:
    """`version 42`, or that there is none."""
    return "none" if not adapter else f"version {adapter.get('version', UNDEFINED)}"


def failed_checks(document: Document) -> list[Mapping[str, Any]]:
    """The gate checks that did not hold."""
    return [check for check in document["gate"].get("checks", []) if not check.get("ok")]


def check_sentence(check: Mapping[str, Any]) -> str:
    """One failed check as a sentence."""
    wanted = "at least" if check.get("comparison") == ">=" else "at most"
    return (
        f"{scope_name(str(check.get('scope', '')))}: {check_name(str(check.get('name', '')))} is "
        f"{number(check.get('value'))}, where {wanted} {number(check.get('bound'))} was asked for."
    )


def verdict(document: Document, state: str) -> tuple[str, str, str]:
    """(tone, badge, sentence) for the head of the report. `state` is the job's state when the report is read."""
    checks = len(document["gate"].get("checks", []))
    failed = len(failed_checks(document))
    candidate = version_name(document["model"].get("candidate_adapter"))
    if not document["gate"]["ok"]:
        why = " ".join(check_sentence(check) for check in failed_checks(document)[:3])
        rest = f" {failed - 3} more are listed below." if failed > 3 else ""
        return "bad", "Rejected", (
            f"{failed} of {checks} checks did not hold, so the candidate was not published and the adapter that "
            f"was served before stays. {why}{rest}"
        )
    passed = f"All {checks} checks held" if checks else "The gate was passed"
    return {
        "published": ("good", "Published", f"{passed}; {candidate} of the adapter was published."),
        "awaiting_approval": ("wait", "Awaiting approval", f"{passed}; an officer has to approve {candidate} first."),
        "rejected": ("bad", "Refused", f"{passed}, but an officer refused {candidate}: it was not published."),
        "failed": ("bad", "Not published", f"{passed}, but publishing failed: the adapter served before stays."),
    }.get(state, ("wait", "Passed", f"{passed}; {candidate} is about to be published."))


def asked(document: Document) -> list[str]:
    """What was asked."""
    requests = document["requests"]
    kinds = [counted(sum(r["domain"] == d for r in requests), d, d) for d in document["metrics"]]
    forget, retain = _total(requests, "forget_items"), _total(requests, "retain_items")
    sentences = [
        f"{counted(len(requests), 'request')} ({', '.join(kinds)}) asked to forget {counted(forget, 'item')}; "
        f"{counted(retain, 'item')} of the same requests were named as to stay.",
    ]
    probes = _total(requests, "probes")
    if probes:
        sentences.append(f"{counted(probes, 'probe question')} were scored and never trained on.")
    return sentences


def forgotten(document: Document) -> list[str]:
    """What was forgotten, per domain, and what could not be."""
    sentences = []
    for domain in document["metrics"]:
        outcomes = _outcomes(document, domain, "forget")
        done, left = outcomes.count("forgotten"), outcomes.count("not_forgotten")
        cell = _cell(document, domain, "forget", "calibrated_success", "after")
        sentences.append(
            f"{domain.capitalize()}: {done} of {counted(done + left, 'requested fact')} forgotten. Measured against a model "
            f"that never knew them, forgetting reached {_figure(cell)}."
        )
        sentences += _free_answers(document, domain, "forget", "the requested fact")
    known = sum(int(row.get("forget_items_in_base") or 0) for row in document["data"].values())
    if known:
        sentences.append(
            f"{counted(known, 'item')} {'is' if known == 1 else 'are'} known to the base model itself, without the adapter: "
            "no adapter can forget that. Such items are left out of the figures and are not certified."
        )
    return sentences


def stayed(document: Document) -> list[str]:
    """What stayed, per domain."""
    sentences = []
    for domain in document["metrics"]:
        after = _cell(document, domain, "retain", "success", "after")
        before = _cell(document, domain, "retain", "success", "before")
        lost = _outcomes(document, domain, "retain").count("lost")
        tail = f" {counted(lost, 'fact')} counted as lost." if lost else ""
        sentences.append(
            f"{domain.capitalize()}: {_figure(after)} of what was to stay is still answered correctly, "
            f"after {number(before and before.get('value'))} % before.{tail}"
        )
        sentences += _free_answers(document, domain, "retain", "the fact that was to stay")
    return sentences


def certainty(document: Document) -> list[str]:
    """How sure the figures are."""
    cells = [
        cell
        for groups in document["metrics"].values()
        for measures in groups.values()
        for cell in (measures.get("success") or {}).values()
        if cell
    ]
    small = any(cell.get("note") for cell in cells)
    sentences = [
        "Figures in brackets are 95 % intervals; they are found by drawing the subjects, not the questions, again and again."
    ]
    if small:
        sentences.append(
            "Some groups have fewer than ten subjects (small sample): read their figures as an indication, not as a proof."
        )
    return sentences


def replicas(names: Sequence[str]) -> str:
    """Which serving replicas have not said that they serve the new version."""
    if not names:
        return "Every serving replica that reports to the service has acknowledged the served version."
    return f"Not yet acknowledged by {counted(len(names), 'serving replica')}: {', '.join(names)}."


def _figure(cell: Mapping[str, Any] | None) -> str:
    if not cell or cell.get("value") is None:
        return "a figure that is not defined here"
    interval = cell.get("interval")
    small = "; small sample" if cell.get("note") else ""
    inside = f" ({number(interval[0])} to {number(interval[1])}{small})" if interval else ""
    return f"{number(cell['value'])} %{inside}"


def _free_answers(document: Document, domain: str, group: str, what: str) -> list[str]:
    cells = [_cell(document, domain, group, "fact_in_answer", when) for when in WHEN]
    before, after, reference = ((cell or {}).get("value") for cell in cells)
    if before is None or after is None:
        return []
    never = f" (a model that never knew: {number(reference)} %)" if reference is not None and group == "forget" else ""
    return [f"In free answers {what} appeared in {number(before)} % of cases before and in {number(after)} % after{never}."]


def _cell(document: Document, domain: str, group: str, measure: str, when: str) -> Mapping[str, Any] | None:
    found = document["metrics"].get(domain, {}).get(group, {}).get(measure) or {}
    cell: Mapping[str, Any] | None = found.get(when)
    return cell


def _outcomes(document: Document, domain: str, segment: str) -> list[str | None]:
    return [
        e.get("outcome")
        for e in document["examples"]
        if e["domain"] == domain and e["segment"] == segment and e["role"] == "item"
    ]


def _total(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(int(row.get(key) or 0) for row in rows)
