"""The certificate document (`grail.certificate/1`): what is certified about one request, and not one word of what was
asked. Pure: rows and a report in, plain values out.

Every field is picked by name. No text of an item, subject's reference, note or reason is in it; the legal basis stands
as the requester stated it, as in the report.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.certificates.schemas import SCHEMA
from app.reports import prongs
from app.reports.schemas import Document
from app.requests.clocks import DAY

CHECK = ("name", "scope", "value", "bound", "comparison", "ok", "n")
LIMITS = (
    "It is about the items of this request, in this served model. Copies of the texts elsewhere (training data, "
    "backups, other models, answers that were given before) are none of it.",
    "Only questions and passages that came with the request, and questions in other words where there are any, were "
    "asked. Other questions may bring out more.",
    "It is no statement that the model is anonymous: it holds what was measured, with its number of items.",
)
OLDER = "Versions before it hold what was erased for as long as somebody serves them: see the recipients."


@dataclass(frozen=True, slots=True)
class Pause:
    """While it was on hold a request's clock stood; `until` is None while it does."""

    kind: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's row, as far as it is certified."""

    id: uuid.UUID
    figures_of: uuid.UUID  # the request that was measured: another where this one was linked to it
    domain: str
    legal_basis: str | None
    regulation: str
    received_at: datetime
    due_at: datetime
    first_due_at: datetime | None
    extended_at: datetime | None
    done_at: datetime
    content_until: datetime | None
    adapter_version: int | None
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True)
class Basis:
    """What all certificates of a job rest on: its report, who approved it, who has older versions."""

    report: Document
    report_digest: str
    published_at: datetime
    approvals: tuple[Mapping[str, Any], ...]
    recipients: Mapping[str, Any] | None


def document(asked: Asked, basis: Basis, certificate_id: uuid.UUID, now: datetime) -> dict[str, Any]:
    """The certificate as plain values, ready for canonical JSON. Raises KeyError, ValueError or TypeError for a report
    that does not speak of the request."""
    report, key = basis.report, str(asked.figures_of)
    measured = next((one for one in report["requests"] if one["id"] == key), None)
    if measured is None:
        raise ValueError("the report has no such request")
    return {
        "schema": SCHEMA,
        "id": str(certificate_id),
        "issued_at": moment(now),
        "request": _request(asked, measured),
        "clock": clock(asked),
        "model": _model(report["model"], report["job"]["served_model"], asked),
        "job": _job(report, basis),
        "figures": {**measured["metrics"], "n": measured["forget_items"] - measured["in_base"]},
        "gate": _gate(report["gate"], asked.domain, key),
        "prongs": {prong: _prong(report, asked.domain, prong) for prong in prongs.TITLES},
        "approvals": [dict(one) for one in basis.approvals],
        "recipients": None if basis.recipients is None else dict(basis.recipients),
        "not_retestable_after": moment(asked.content_until),
        "limits": [*LIMITS, *([OLDER] if basis.recipients is not None else ())],
        "report_limits": list(report["limits"]),
    }


def clock(asked: Asked) -> dict[str, Any]:
    """The request's clock in days: what was used and what was allowed, without the time that it stood."""
    stood = sum((_stood(pause, asked.done_at) for pause in asked.pauses), timedelta(0))
    extension = {"at": moment(asked.extended_at), "first_due_at": moment(asked.first_due_at)}
    return {
        "received_at": moment(asked.received_at),
        "due_at": moment(asked.due_at),
        "done_at": moment(asked.done_at),
        "days_used": _days(asked.done_at - asked.received_at - stood),
        "days_allowed": _days(asked.due_at - asked.received_at - stood),
        "in_time": asked.done_at <= asked.due_at,
        "extension": None if asked.extended_at is None else extension,
        "pauses": [
            {"kind": pause.kind, "since": moment(pause.since), "until": moment(pause.until)} for pause in asked.pauses
        ],
        "days_paused": _days(stood),
    }


def pauses(leaves: Iterable[tuple[str, bytes]]) -> tuple[Pause, ...]:
    """When a request was on hold, from its leaves (event, bytes) in their order. A hold that gets another reason goes
    on; the first one's kind counts."""
    found: list[Pause] = []
    for event, raw in leaves:
        leaf = json.loads(raw)
        at, is_open = datetime.fromisoformat(leaf["at"]), bool(found) and found[-1].until is None
        if event == "request.held" and not is_open:
            found.append(Pause(str(leaf["fields"]["kind"]), at, None))
        elif event == "request.resumed" and is_open:
            found[-1] = Pause(found[-1].kind, found[-1].since, at)
    return tuple(found)


def _stood(pause: Pause, done_at: datetime) -> timedelta:
    return max((pause.until or done_at) - pause.since, timedelta(0))


def _request(asked: Asked, measured: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: measured[name] for name in ("forget_items", "retain_items", "probes", "in_base", "outcome")}
    return {
        "id": str(asked.id),
        "measured_as": str(asked.figures_of),
        "domain": asked.domain,
        "legal_basis": asked.legal_basis,
        "regulation": asked.regulation,
        **counts,
    }


def _model(model: Mapping[str, Any], served_model: str, asked: Asked) -> dict[str, Any]:
    candidate = model["candidate_adapter"]
    is_served = candidate is not None and candidate["version"] == asked.adapter_version
    return {
        "served_model": served_model,
        "base_name": model["base_path_name"],
        "base_digest": model["base_digest"],
        "replaces": model["start_adapter"],
        "adapter": candidate if is_served else None,
        "reference": model["reference"],
    }


def _job(report: Document, basis: Basis) -> dict[str, Any]:
    method = report["method"]
    return {
        "id": report["job"]["id"],
        "ended_at": moment(basis.published_at),
        "method": method["method"],
        "objective": method["objective"],
        "report_digest": basis.report_digest,
        "report_schema": report["schema"],
    }


def _gate(gate: Mapping[str, Any], domain: str, request: str) -> dict[str, Any]:
    """The checks of the request's domain and its own. Those of other requests are other people's, and so is how many
    there were."""
    shown = [
        {name: check[name] for name in CHECK}
        for check in gate["checks"]
        if check["scope"] in (domain, f"request {request}")
    ]
    return {"ok": gate["ok"], "held": sum(bool(check["ok"]) for check in shown), "checks": shown}


def _prong(report: Document, domain: str, prong: str) -> dict[str, Any]:
    return {
        "figures": prongs.figures(report, domain, prong), "not_tested": prongs.not_tested(report, [domain], prong),
    }  # fmt: skip


def recipients(rows: Mapping[str, Any]) -> dict[str, Any]:
    """How many have versions from before the erasure, and what they were told, by kind."""
    nobody = {"count": 0, "acknowledged": 0, "notified": 0}
    return {
        kind: {name: getattr(rows[kind], name) for name in nobody} if kind in rows else dict(nobody)
        for kind in ("keys", "replicas")
    }


def _days(span: timedelta) -> float:
    return round(span / DAY, 2)


def moment(at: datetime | None) -> str | None:
    """A time as documents have it, in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat()
