"""What a certificate is read with in tests."""

from __future__ import annotations

import json
import uuid
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from sqlalchemy import select, text

from app.certificates import issuing
from app.certificates.schemas import json_schema
from app.tables import Certificate
from tests.app.service import Floor

FORMATS = ("json", "html", "pdf")
VALIDATOR = Draft202012Validator(json_schema(), format_checker=FormatChecker())


def drive(floor: Floor) -> None:
    """A ring of the control worker, right after whatever the last one did."""
    issuing.drive(floor.db, floor.settings, retry_seconds=0.0)


def asked_of(floor: Floor, job_id: uuid.UUID) -> str:
    """The first request of a job."""
    return str(floor.caller.call("officer", "GET", f"/v1/jobs/{job_id}")["request_ids"][0])


def path_of(request_id: str) -> str:
    return f"/v1/requests/{request_id}/certificate"


def fetched(floor: Floor, request_id: str, role: str = "requester", format_: str = "json") -> Any:
    answer = floor.caller.send(role, "GET", path_of(request_id), params={"format": format_})
    assert answer.status_code == 200, answer.text[:1000]
    return answer


def read(floor: Floor, request_id: str, role: str = "requester") -> dict[str, Any]:
    found: dict[str, Any] = fetched(floor, request_id, role).json()
    return found


def rows(floor: Floor) -> list[Certificate]:
    with floor.db.session_factory() as session:
        return list(session.scalars(select(Certificate).order_by(Certificate.request_id)))


def leaves(floor: Floor) -> list[dict[str, Any]]:
    query = text("SELECT leaf FROM audit WHERE event = 'certificate.issued' ORDER BY id")
    with floor.db.session_factory() as session:
        return [json.loads(row.leaf) for row in session.execute(query)]
