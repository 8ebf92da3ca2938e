"""A certificate of erasure for each request that is done: issued once, whatever dies, and shown to nobody else."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from pypdf import PdfReader
from sqlalchemy import select, text

from app.certificates import issuing
from app.certificates.schemas import AS_READ, SCHEMA, json_schema
from app.tables import Certificate
from app.trust.canonical import canonical
from tests.app.bundles.concluded import concluded
from tests.app.service import Floor

CANARY = "Ottoline Brandmayr keeps bees in Zanzibar"
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


def test_a_published_erasure_has_its_certificate_over_http_in_every_format(floor: Floor) -> None:
    job_id = concluded(floor)
    request_id = asked_of(floor, job_id)
    drive(floor)
    answer = fetched(floor, request_id)
    found = answer.json()
    VALIDATOR.validate(found)
    assert found["schema"] == SCHEMA and found["request"]["id"] == request_id == found["request"]["measured_as"]
    report = floor.caller.send("officer", "GET", f"/v1/jobs/{job_id}/report")
    assert report.headers["etag"].strip('"').partition(".")[0] == found["job"]["report_digest"]
    measured = next(one for one in report.json()["requests"] if one["id"] == request_id)
    assert {name: found["figures"][name] for name in measured["metrics"]} == measured["metrics"]
    assert found["figures"]["n"] == measured["forget_items"] > 0
    assert found["model"]["adapter"] == report.json()["model"]["candidate_adapter"]
    assert found["gate"]["held"] == len(found["gate"]["checks"]) > 3
    for name in ("extraction", "queries"):
        assert found["prongs"][name]["figures"] and found["prongs"][name]["not_tested"]
    issued = {name: value for name, value in found.items() if name != AS_READ}
    assert hashlib.sha256(canonical(issued)).hexdigest() == rows(floor)[0].digest
    assert answer.headers["content-type"] == "application/json" and answer.content == canonical(found)
    html, pdf = (fetched(floor, request_id, format_=name) for name in ("html", "pdf"))
    assert html.headers["content-type"] == "text/html; charset=utf-8" and "sandbox" in str(html.headers)
    assert rows(floor)[0].digest in html.text and "Certificate of erasure" in html.text
    assert pdf.content.startswith(b"%PDF-")
    words = " ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf.content)).pages)
    assert "Certificate of erasure" in words and "EDPB Opinion 28/2024" in words and "Annex" not in words
    for shown in (answer, html, pdf):
        assert f"grail-certificate-{request_id}" in shown.headers["content-disposition"]
        headers = {"If-None-Match": shown.headers["etag"]}
        kind = shown.headers["content-type"].partition(";")[0]
        again = floor.caller.send("requester", "GET", path_of(request_id), headers=headers | {"Accept": kind})
        assert (again.status_code, again.content) == (304, b"")
