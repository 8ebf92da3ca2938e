"""Numbers and findings in words that a data protection officer understands. Pure: a report document in, text out."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.reports.blocks import Tone

Document = Mapping[str, Any]

UNDEFINED = "n/a"
KEPT_SIGNS = "\t\n\r\u200c\u200d"
"""White space, and joiners that scripts need."""
WHEN = ("before", "after", "reference")
GROUPS = {
    "forget": "Requested facts",
    "forget_paraphrase": "Requested facts, asked in other words",
    "forget_unrequested": "Other facts of the same subjects that nobody asked to remove",
    "forget_earlier": "What earlier runs erased",
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
CHECKS = {
    "cus": ("Forgetting: calibrated success (cUS)", "%"),
    "paraphrase_cus": ("Forgetting, asked in other words: cUS", "%"),
    "earlier_cus": ("What earlier runs erased is still gone: cUS", "%"),
    "rs": ("Retention: success on what stays (RS)", "%"),
    "forget_gap": ("Over-forgetting: gap to a model that never knew", "points"),
    "ppl_ratio": ("Naturalness: ratio of its perplexity and that of a model that never knew", ""),
    "forget_items": ("Items that were to be forgotten", ""),
    "retain_items": ("Items that were named as to stay", ""),
    "certified_forget_items": ("Items certified as forgotten", ""),
}
SMALL_SAMPLE = "small sample"
NOT_CERTIFIED = "certified_forget_items"
"""The gate's check that holds without certifying anything: the base model knows all that was to be forgotten."""


def number(value: float | None, digits: int = 1) -> str:
    """A figure as people read it; undefined and endless ones in words."""
    if value is None:
        return UNDEFINED
    if not math.isfinite(value):
        return "∞" if value > 0 else UNDEFINED
    if abs(value) >= 100_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10^{int(exponent)}".replace("-", "−")
    shown = f"{value:,.{digits}f}"
    return shown.removeprefix("-") if not float(shown.replace(",", "")) else shown.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as sentences have it: `93.1 %`, `100 %`; its sign never stands alone on a line."""
    return number(value).removesuffix(".0") + "\u00a0%"


def against(value: float | None, bound: float) -> tuple[str, str]:
    """A value and its bound, with as many digits as tell them apart: 84.97 is not 85.0 beside a bound of 85."""
    digits = next((d for d in range(1, 6) if value == bound or number(value, d) != number(bound, d)), 6)
    return number(value, digits), number(bound, digits)


def measured(cell: Mapping[str, Any] | None, digits: int = 1) -> tuple[str, str]:
    """A figure, and beneath it its interval or why there is none: (`93.1`, `88.2 to 96.8`); `∞` where it overflows."""
    if cell is None or (cell["value"] is None and not cell["text"]):
        return UNDEFINED, ""
    shown = "∞" if cell["text"] == "inf" else number(cell["value"], digits)
    interval, note = cell["interval"], cell["note"]
    return shown, f"{number(interval[0], digits)} to {number(interval[1], digits)}" if interval else note or ""


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


def check_name(name: str) -> tuple[str, str]:
    """A gate check in plain words, and its unit; its own name when it is a new one."""
    plain = name.lower().removeprefix("min_").removeprefix("max_").removeprefix("request_")
    return CHECKS.get(plain, (name, ""))


def visible(text: str, kept: str = KEPT_SIGNS) -> str:
    """`text` with every character that shows nothing, or turns the line around, written as its code: [U+202E]; but for
    those in `kept`."""
    return "".join(sign if sign in kept or not is_hidden(sign) else _coded(sign) for sign in text)


def is_hidden(sign: str) -> bool:
    """Whether a character shows nothing by itself: a control, a format or directional mark, no character at all."""
    return unicodedata.category(sign) in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def _coded(sign: str) -> str:
    return f"[U+{ord(sign):04X}]"


def scope_name(scope: str) -> str:
    """`privacy` -> `Privacy`; `request <id>` -> `Request <last 12>`."""
    if scope.startswith("request "):
        return f"Request {short_id(scope.removeprefix('request '))}"
    return scope.capitalize()


def short_id(identifier: str | None) -> str:
    """The part of an id that tells rows apart on paper."""
    return UNDEFINED if not identifier else str(identifier)[-12:]


def moment(text: str | None) -> str:
    """`2026-11-24T10:04:41Z` -> `2026-11-24 10:04 UTC`, whatever zone it was written in."""
    if not text:
        return UNDEFINED
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        return found.strftime("%Y-%m-%d %H:%M")
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def due(due_at: str | None, ended: str | None) -> str:
    """When a request is due, and how many days of its clock were left when the job had ended: `due 2026-12-20, 25 days
    left at the end`."""
    if not due_at:
        return ""
    day = f"due {moment(due_at)[:10]}"
    if not ended:
        return day
    left = (datetime.fromisoformat(due_at) - datetime.fromisoformat(ended)).total_seconds() / 86_400
    return f"{day}, {counted(int(abs(left)), 'day')} {'left' if left >= 0 else 'late'} at the end"


def drawn(ability: Mapping[str, Any]) -> str:
    """Which questions general ability was measured with."""
    return (
        f"{ability['drawn']:,} of {counted(ability['questions'], 'multiple-choice question')} of the file, drawn with "
        f"the seed {ability['seed']}: the share whose right choice is the most likely one. The change is of the same "
        "questions, pair by pair."
    )


def place(found: Mapping[str, Any] | None) -> str:
    """Where a leaf stands in the audit log."""
    return "no number in the log yet" if found is None else f"leaf {found['position']:,} of the log"


def checkpoint(found: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """A signed checkpoint in words, and its root."""
    if found is None:
        return "none covers it yet", None
    return f"over {counted(found['size'], 'leaf', 'leaves')}", found["root"]


def version_name(adapter: Mapping[str, Any]) -> str:
    """`version 42`."""
    return f"version {adapter['version']}"


def change(start: Mapping[str, Any] | None, candidate: Mapping[str, Any] | None) -> str:
    """`version 41 → version 42`."""
    before = "none" if start is None else version_name(start)
    return f"{before}, unchanged" if candidate is None else f"{before} → {version_name(candidate)}"


def failed_checks(document: Document) -> list[Mapping[str, Any]]:
    """The gate checks that did not hold."""
    return [check for check in document["gate"]["checks"] if not check["ok"]]


def check_sentence(check: Mapping[str, Any]) -> str:
    """One failed check as a sentence."""
    value, bound = against(check["value"], check["bound"])
    what, unit = check_name(check["name"])
    unit = f"\u00a0{unit}" if unit else ""
    where = f"{scope_name(check['scope'])}, {what[:1].lower()}{what[1:]}"
    return f"{where}, is {value}{unit}, where {wanted(check)} {bound}{unit} was asked for."


def wanted(check: Mapping[str, Any]) -> str:
    """Which side of its bound a check is to lie on."""
    return "at least" if check["comparison"] == ">=" else "at most"


def verdict(document: Document, state: str) -> tuple[Tone, str, str]:
    """(tone, badge, sentence) for the head of the report. `state` is the job's state when the report is read."""
    if not document["gate"]["ok"]:
        return "bad", "Rejected", _rejection(document)
    bounds = sum(check["name"] != NOT_CERTIFIED for check in document["gate"]["checks"])
    passed = f"Every check held ({bounds} listed below)" if bounds else "No bound was broken"
    tone, badge, sentence = _passed(passed, document["model"]["candidate_adapter"], state)
    if not certifies_nothing(document):
        return tone, badge, sentence
    return "wait" if tone == "good" else tone, f"{badge}, nothing certified", (
        "The base model itself, without any adapter, knows everything that was to be forgotten: nothing could be "
        f"forgotten and nothing is certified. {sentence}"
    )


def _passed(passed: str, adapter: Mapping[str, Any] | None, state: str) -> tuple[Tone, str, str]:
    if adapter is None:
        return "wait", "No change", f"{passed}; the adapter was not changed: the version served before stays."
    candidate = version_name(adapter)
    outcomes: dict[str, tuple[Tone, str, str]] = {
        "published": ("good", "Published", f"{passed}; {candidate} of the adapter was published."),
        "awaiting_approval": ("wait", "Awaiting approval", f"{passed}; an officer has to approve {candidate} first."),
        "rejected": ("bad", "Refused", f"{passed}, but {candidate} was turned down: it was not published."),
        "failed": ("bad", "Not published", f"{passed}, but publishing failed: the adapter served before stays."),
    }
    return outcomes.get(state, ("wait", "Passed", f"{passed}; {candidate} is not yet published."))


def _rejection(document: Document) -> str:
    failed, checks = failed_checks(document), len(document["gate"]["checks"])
    stays = "so the candidate was not published and the adapter that was served before stays."
    if not failed:  # an excerpt: the reason is another person's business
        return f"A check on other requests of the same job did not hold, {stays}"
    why = " ".join(check_sentence(check) for check in failed[:3])
    rest = f" {len(failed) - 3} more are listed below." if len(failed) > 3 else ""
    return f"{len(failed)} of {counted(checks, 'check')} did not hold, {stays} {why}{rest}"


def certifies_nothing(document: Document) -> bool:
    """True when the base model knows by itself all that was to be forgotten."""
    rows = document["data"].values()
    asked_for = _total(rows, "forget_items")
    return asked_for > 0 and asked_for == _total(rows, "forget_items_in_base")


def asked(document: Document) -> list[str]:
    """What was asked."""
    requests = document["requests"]
    counts = {domain: sum(r["domain"] == domain for r in requests) for domain in document["data"]}
    kinds = ", ".join(f"{count} {domain}" for domain, count in counts.items() if count)
    forget, retain = _total(requests, "forget_items"), _total(requests, "retain_items")
    sentences = [
        f"{counted(len(requests), 'request')} ({kinds or 'none'}): {counted(forget, 'item')} to be forgotten, "
        f"{counted(retain, 'item')} named as to stay."
    ]
    probes = _total(requests, "probes")
    if probes:
        sentences.append(f"{counted(probes, 'probe question')} came with them: scored, never trained on.")
    return sentences


def forgotten(document: Document) -> list[str]:
    """What was forgotten, per domain."""
    sentences = []
    for domain in document["metrics"]:
        outcomes = _outcomes(document, domain, "forget")
        done, left = outcomes.count("forgotten"), outcomes.count("not_forgotten")
        cell = cell_of(document, domain, "forget", "calibrated_success", "after")
        if done + left:
            reached = f" Forgetting reached {_figure(cell)} of what a model that never knew them shows." if cell else ""
            free = _free_answers(document, domain, "forget", "the requested fact")
            items = counted(done + left, "requested fact")
            sentences.append(f"{_name(domain)}: {done} of {items} forgotten.{reached}{free}")
    return sentences or ["Nothing was measured: see what the base model knows."]


def known_before(document: Document) -> str:
    """What no adapter can forget, said plainly; empty when there is nothing of the kind."""
    rows = document["data"].values()
    known, items = _total(rows, "forget_items_in_base"), _total(rows, "forget_items")
    if not known:
        return ""
    is_one = known == 1
    return (
        f"{known} of {counted(items, 'item')} to be forgotten {'is' if is_one else 'are'} known to the base model "
        f"itself, without any adapter. No change of the adapter can remove {'it' if is_one else 'them'}: "
        f"{'it is' if is_one else 'they are'} left out of the figures and NOT certified as forgotten."
    )


def stayed(document: Document) -> list[str]:
    """What stayed, per domain."""
    sentences = []
    for domain in document["metrics"]:
        after = cell_of(document, domain, "retain", "success", "after")
        before = cell_of(document, domain, "retain", "success", "before")
        if after is None or before is None:
            continue
        lost = _outcomes(document, domain, "retain").count("lost")
        tail = f" {counted(lost, 'fact')} counted as lost." if lost else ""
        free = _free_answers(document, domain, "retain", "the fact")
        sentences.append(
            f"{_name(domain)}: what is to stay scores {_figure(after)}, before the run {percent(before['value'])}."
            f"{tail}{free}"
        )
    return sentences or ["Nothing that is to stay was measured."]


def certainty(document: Document) -> list[str]:
    """How sure the figures are."""
    sentences = [
        "Figures in brackets are 95\u00a0% intervals, found by drawing subjects, not questions, again and again."
    ]
    if any(cell.get("note") == SMALL_SAMPLE for cell in _success_cells(document)):
        sentences.append(
            "Groups of fewer than ten subjects are marked as a small sample and have no interval: read their figures "
            "as an indication, not as a proof."
        )
    return sentences


def replicas(names: Sequence[str]) -> str:
    """Which serving replicas have not said that they serve the active version."""
    if not names:
        return (
            "No replica that reports to the service serves another version than the active one. Replicas that never "
            "reported are not known here."
        )
    return (
        f"{counted(len(names), 'serving replica')} {'has' if len(names) == 1 else 'have'} not acknowledged the active "
        "version: what was erased may still be answered there."
    )


def cell_of(document: Document, domain: str, group: str, measure: str, when: str) -> Mapping[str, Any] | None:
    """One measured figure; None where nothing was measured."""
    found = document["metrics"].get(domain, {}).get(group, {}).get(measure) or {}
    cell: Mapping[str, Any] | None = found.get(when)
    return None if cell is None or not cell["n"] else cell


def _success_cells(document: Document) -> list[Mapping[str, Any]]:
    return [
        cell
        for groups in document["metrics"].values()
        for measures in groups.values()
        for cell in measures["success"].values()
    ]


def _name(domain: str) -> str:
    return domain.capitalize()


def _figure(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "a figure that is not defined here"
    interval, note = cell["interval"], cell["note"]
    if interval:
        return f"{percent(cell['value'])} ({number(interval[0])} to {number(interval[1])})"
    return percent(cell["value"]) + (f" ({note})" if note else "")


def _free_answers(document: Document, domain: str, group: str, what: str) -> str:
    cells = [cell_of(document, domain, group, "fact_in_answer", when) for when in WHEN]
    before, after, reference = (None if cell is None else cell["value"] for cell in cells)
    if before is None or after is None:
        return ""
    never = ""
    if reference is not None and group == "forget":
        never = f" (of a model that never knew: {percent(reference)})"
    return f" Free answers held {what} in {percent(before)} of cases before, in {percent(after)} after{never}."


def _outcomes(document: Document, domain: str, segment: str) -> list[str | None]:
    return [
        e["outcome"]
        for e in document["examples"]
        if e["domain"] == domain and e["segment"] == segment and e["role"] == "item"
    ]


def _total(rows: Iterable[Mapping[str, Any]], key: str) -> int:
    return sum(int(row[key]) for row in rows)
