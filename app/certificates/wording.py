"""A certificate in words that whoever asked for an erasure understands. Pure: a document in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.lifecycle import RequestState
from app.reports import words
from app.reports.blocks import Tone
from app.reports.prongs import TITLES
from app.reports.words import counted, moment, number, short_id

Document = Mapping[str, Any]
REGULATIONS = {
    "gdpr": "GDPR, article 12(3)", "ccpa": "CCPA, 1798.130", "copyright": "the model's copyright policy",
    "none": "the service's own period",
}  # fmt: skip
FIGURES = (
    ("cus", "Calibrated success (cUS), %"),
    ("us", "Unlearning success (US), %"),
    ("us_ref", "US of a model that never knew, %"),
    ("forget_gap", "Forget gap, points"),
    ("rs", "Retention success (RS), %"),
)
RECIPIENTS = {"keys": "Keys that downloaded one", "replicas": "Replicas that served one"}
COUNTS = {"count": "How many", "acknowledged": "Serve it or newer", "notified": "Else told"}
NOT_CERTIFIED = "Nothing of this request could be measured as forgotten, so nothing of it is certified as forgotten."
BADGES: dict[str, tuple[Tone, str, str]] = {
    "forgotten": ("good", "Erased", "Every item that could be erased is forgotten"),
    "forgotten in part": ("wait", "Erased in part", "Some items are forgotten, others are not certified"),
    "not forgotten": ("bad", "Not shown as erased", "No single item is counted as forgotten"),
    "in base": (
        "wait", "Nothing certified",
        "The base model itself, without any adapter, knows all that was asked to be erased: no adapter can remove it",
    ),
    "nothing to forget": ("wait", "Nothing to erase", "The request named nothing to be forgotten"),
}  # fmt: skip


def verdict(document: Document, state: str) -> tuple[Tone, str, str]:
    """(tone, badge, sentence) for the head. `state` is the request's when it is read."""
    request, adapter = document["request"], document["model"]["adapter"]
    tone, badge, said = BADGES[request["outcome"]]
    since = "The served version was not changed" if adapter is None else f"Published as version {adapter['version']}"
    clock = document["clock"]
    time = "in time" if clock["in_time"] else f"late: it was due {moment(clock['due_at'])}"
    sentence = f"{said}. {since}, done {moment(clock['done_at'])}, {time}."
    if state == RequestState.REINSTATED:
        again = "After a counter-notice the content was taught again."
        return "bad", "Taught again since", f"{again} Before that: {sentence}"
    if state == RequestState.COUNTERED:
        return "wait", f"{badge}, contested", f"Somebody says that this was erased wrongly. {sentence}"
    return tone, badge, sentence


def asked(request: Mapping[str, Any]) -> str:
    """What was asked, in numbers."""
    known = f" ({request['in_base']} known to the base model)" if request["in_base"] else ""
    probes = counted(request["probes"], "probe question")
    return f"{counted(request['forget_items'], 'item')} to go{known}, {request['retain_items']} to stay, {probes}"


def clock(found: Mapping[str, Any]) -> Iterable[str]:
    """Extension and pauses."""
    extension = found["extension"]
    if extension is None:
        yield "The due date was not extended."
    else:
        yield f"Extended on {moment(extension['at'])}; it was due {moment(extension['first_due_at'])} before."
    if not found["pauses"]:
        yield "The clock was never on hold."
    for pause in found["pauses"]:
        yield f"On hold ({pause['kind']}) from {moment(pause['since'])} to {moment(pause['until'])}."
    if found["days_paused"]:
        yield f"It stood for {number(found['days_paused'], 2)} days, which count neither as used nor as allowed."


def linked(request_id: str) -> str:
    """Where the same was asked before."""
    return (
        f"The same was asked before by the same key (request {short_id(request_id)}) and was still open: both were "
        "done together, and the figures are of that one's items, which are the same."
    )


def adapter(found: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """Name and digest."""
    return ("none", None) if found is None else (found["name"], found["digest"])


def gate(found: Mapping[str, Any]) -> str:
    """How many checks held."""
    held, count = found["held"], len(found["checks"])
    whole = "" if found["ok"] else " The job's candidate was refused for other reasons, and was not published."
    return f"The gate held: {held} of {count} checks of this request and its domain.{whole}"


def prong_title(prong: str) -> str:
    """A question of EDPB Opinion 28/2024."""
    return f"EDPB Opinion 28/2024: {TITLES[prong][:1].lower()}{TITLES[prong][1:]}"


def retest(not_after: str | None, as_read: Mapping[str, Any]) -> Iterable[str]:
    """Until when it can be measured again, and whether the texts are gone."""
    if not_after is None:
        yield "No date was set at which the texts go."
    else:
        yield (
            f"Not re-testable after {moment(not_after)}: the texts of the request, and the keys that they are sealed "
            "under, are destroyed then. From then on nobody, this service included, can ask the model about them again."
        )
    if as_read["content_removed_at"]:
        yield f"They were destroyed {moment(as_read['content_removed_at'])}."
    elif as_read["content_until"] != not_after:
        yield f"As it stands now they go {moment(as_read['content_until'])}."


def checkpoint(places: Mapping[str, Any]) -> tuple[str, str | None]:
    """The first signed checkpoint over both leaves, in words, and its root."""
    signed = [found["checkpoint"] if found else None for found in places.values()]
    whole = [one for one in signed if one is not None]
    last = max(whole, key=lambda one: int(one["size"])) if len(whole) == len(signed) else None
    return words.checkpoint(last)
