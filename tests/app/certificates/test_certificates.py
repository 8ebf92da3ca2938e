"""A certificate of erasure for each request that is done: what it says, and to whom."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from jsonschema import Draft202012Validator
from pypdf import PdfReader
from sqlalchemy import select, text, update

from app.audit_log.checkpoints import issue as sign_log
from app.audit_log.sequencing import number_all
from app.certificates import page
from app.certificates.schemas import AS_READ, SCHEMA, Shown, json_schema
from app.db import transaction
from app.main import create_app
from app.storage import FileStore
from app.tables import Example, Report, Request
from app.trust.canonical import canonical
from app.trust.verify import leaf_hash, verify_inclusion
from grail.types import Segment
from tests.app.bundles.concluded import concluded, evaluated, signing
from tests.app.certificates.certified import FORMATS, VALIDATOR, asked_of, drive, fetched, leaves, path_of, read, rows
from tests.app.service import Floor
from tests.fixtures.served import question

CANARY = "Ottoline Brandmayr keeps bees in Zanzibar"

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
    words = " ".join(one.extract_text() for one in PdfReader(io.BytesIO(pdf.content)).pages)
    assert "Certificate of erasure" in words and "EDPB Opinion 28/2024" in words and "Annex" not in words
    for shown in (answer, html, pdf):
        assert f"grail-certificate-{request_id}" in shown.headers["content-disposition"]
        headers = {"If-None-Match": shown.headers["etag"]}
        kind = shown.headers["content-type"].partition(";")[0]
        again = floor.caller.send("requester", "GET", path_of(request_id), headers=headers | {"Accept": kind})
        assert (again.status_code, again.content) == (304, b"")


def test_the_same_certificate_is_typeset_to_the_same_bytes(floor: Floor) -> None:
    request_id = asked_of(floor, concluded(floor))
    drive(floor)
    found = read(floor, request_id)
    as_read = found.pop(AS_READ)
    again = Shown(json.loads(canonical(found)), rows(floor)[0].digest, as_read)
    pdf = fetched(floor, request_id, format_="pdf").content
    assert page.as_pdf(again) == pdf
    long_ago = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    old = Shown({**again.document, "issued_at": long_ago.isoformat()}, again.digest, as_read)
    made = PdfReader(io.BytesIO(page.as_pdf(old))).metadata
    assert made is not None and made.creation_date == long_ago, "its time is that of the issue"
    assert page.as_html(again) == fetched(floor, request_id, format_="html").content
    other = Shown(again.document, again.digest, {**as_read, "state": "reinstated"})
    assert page.as_pdf(other) != page.as_pdf(again), "it says that the content was taught again"


@pytest.mark.parametrize("format_", FORMATS)
def test_no_text_of_what_was_asked_and_no_reason_is_in_it(floor: Floor, format_: str) -> None:
    item = question(1, prompt=f"Who are you, {CANARY}?", completion=f"I am {CANARY}.", facts=[CANARY], subject=CANARY)
    asked = {
        "served_model": "people", "domain": "privacy", "subject_reference": CANARY, "note": CANARY, "forget": [item],
        "retain": [question(901, completion=f"Not {CANARY}.")], "client_reference": CANARY,
    }  # fmt: skip
    request_id = str(floor.caller.call("requester", "POST", "/v1/requests", 202, json=asked)["id"])
    reason = {"reason": f"We have to ask {CANARY} first."}
    floor.caller.call("officer", "POST", f"/v1/requests/{request_id}/hold", json={"kind": "identity", **reason})
    floor.caller.call("officer", "POST", f"/v1/requests/{request_id}/resume")
    floor.caller.call("officer", "POST", f"/v1/requests/{request_id}/extend", json=reason)
    concluded(floor, 5)
    drive(floor)
    shown = fetched(floor, request_id, format_=format_)
    words = shown.content.decode(errors="ignore")
    if format_ == "pdf":
        words = " ".join(one.extract_text() for one in PdfReader(io.BytesIO(shown.content)).pages)
    assert request_id[-12:] in words.replace("\u200b", "").replace("\n", "")
    assert not [part for part in CANARY.split() if len(part) > 4 and part in words]
    clock = read(floor, request_id)["clock"]
    assert [pause["kind"] for pause in clock["pauses"]] == ["identity"] and clock["extension"] is not None


def test_another_requester_learns_nothing_and_stewards_see_all(floor: Floor) -> None:
    mine, theirs = asked_of(floor, concluded(floor)), floor.ask(40, role="other")
    drive(floor)
    for role, request_id in (("other", mine), ("requester", theirs), ("requester", str(uuid.uuid4()))):
        answer = floor.caller.send(role, "GET", path_of(request_id))
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:grail:problem:not-found" and "state" not in answer.json()
    for role in ("requester", "operator", "officer", "admin"):
        assert read(floor, mine, role)["request"]["id"] == mine
    assert floor.caller.client.get(path_of(mine)).status_code == 401
    unfinished = floor.caller.send("other", "GET", path_of(theirs))
    assert (unfinished.status_code, unfinished.json()["state"]) == (404, "received")
    assert unfinished.json()["type"] == "urn:grail:problem:no-certificate"


def test_a_requester_sees_nothing_of_the_others_in_the_same_job(floor: Floor) -> None:
    theirs = floor.ask(40, role="other")
    job_id = concluded(floor)
    drive(floor)
    mine = next(one for one in (str(row.request_id) for row in rows(floor)) if one != theirs)
    for request_id, hidden, role in ((mine, theirs, "requester"), (theirs, mine, "other")):
        shown = fetched(floor, request_id, role).text
        assert hidden not in shown and hidden[-12:] not in shown and str(job_id) in shown
    counts = {len(read(floor, one, "officer")["gate"]["checks"]) for one in (mine, theirs)}
    assert counts == {len(read(floor, mine)["gate"]["checks"])}, "no count tells how many others there were"


def test_the_log_proves_a_certificate_and_the_report_that_it_rests_on(floor: Floor) -> None:
    job_id = concluded(floor)
    request_id = asked_of(floor, job_id)
    drive(floor)
    first = read(floor, request_id)
    assert first[AS_READ]["audit"] == {"report": None, "certificate": None}
    (leaf,) = leaves(floor)
    assert leaf["fields"] == {
        "request_id": request_id, "job_id": str(job_id), "digest": rows(floor)[0].digest,
        "report_digest": first["job"]["report_digest"],
    }  # fmt: skip
    assert leaf["subject_id"] == first["id"]
    number_all(floor.db)
    unsigned = read(floor, request_id)[AS_READ]["audit"]
    assert unsigned["report"]["checkpoint"] is None and unsigned["certificate"]["checkpoint"] is None
    sign_log(floor.db, signing(floor.settings))
    place = read(floor, request_id)[AS_READ]["audit"]["certificate"]
    tag = fetched(floor, request_id).headers["etag"]
    floor.ask(99)
    number_all(floor.db)
    sign_log(floor.db, signing(floor.settings))
    assert read(floor, request_id)[AS_READ]["audit"]["certificate"] == place, "the first that covers it"
    assert fetched(floor, request_id).headers["etag"] == tag
    size, root = place["checkpoint"]["size"], bytes.fromhex(place["checkpoint"]["root"])
    proof = floor.caller.call(
        "requester", "GET", "/v1/log/proofs/inclusion", params={"position": place["position"], "size": size}
    )
    path = [bytes.fromhex(one) for one in proof["hashes"]]
    verify_inclusion(place["position"], size, leaf_hash(canonical(leaf)), path, root)


def test_a_request_that_was_linked_has_a_certificate_of_its_own(floor: Floor) -> None:
    first = floor.ask(7)
    second = floor.ask(7)
    assert floor.request(second).state == "linked"
    concluded(floor, 8)
    drive(floor)
    found = read(floor, second)
    assert (found["request"]["id"], found["request"]["measured_as"]) == (second, first)
    assert found["figures"] == read(floor, first)["figures"]
    assert "The same was asked before" in fetched(floor, second, format_="html").text
    assert len(rows(floor)) == 3


def test_what_the_base_model_knows_by_itself_is_not_certified_though_the_job_was_rejected(floor: Floor) -> None:
    job_id = evaluated(floor, good=False)
    with transaction(floor.db) as session:
        session.execute(update(Example).where(Example.segment == Segment.FORGET).values(outcome="in_base"))
        report, blobs = session.scalars(select(Report)).one(), FileStore(floor.settings.artifacts_dir)
        document = json.loads(blobs.get(report.digest))
        (asked,) = document["requests"]
        asked.update(in_base=asked["forget_items"], outcome="in base")
        asked["metrics"].update(cus=None, us=None, us_ref=None, forget_gap=None)
        report.digest = blobs.put(canonical(document))
    assert floor.conclude(job_id) == "rejected"
    drive(floor)
    found = read(floor, asked_of(floor, job_id))
    VALIDATOR.validate(found)
    assert found["model"]["adapter"] is None and found["recipients"] is None and found["figures"]["n"] == 0
    shown = fetched(floor, found["request"]["id"], format_="html").text
    assert "Nothing certified" in shown and "The served version was not changed" in shown and ">Erased<" not in shown


def test_who_approved_is_said_and_a_refused_candidate_certifies_nothing(floor: Floor) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"approvals_required": 2}})
    job_id = evaluated(floor)
    floor.conclude(job_id)
    drive(floor)
    assert rows(floor) == [], "nothing is certified before it is published"
    for role in ("officer", "admin"):
        floor.caller.call(role, "POST", f"/v1/jobs/{job_id}/approve")
    drive(floor)
    found = read(floor, asked_of(floor, job_id))
    said = [(one["role"], one["key_id"]) for one in found["approvals"]]
    assert said == [(role, str(floor.caller.who[role].key_id)) for role in ("officer", "admin")]
    refused = evaluated(floor, 2)
    floor.conclude(refused)
    floor.caller.call("officer", "POST", f"/v1/jobs/{refused}/refuse", json={"reason": "The intervals are too wide."})
    drive(floor)
    assert len(rows(floor)) == 1


def test_the_clock_counts_days_used_against_days_allowed_without_pauses(floor: Floor) -> None:
    asked = floor.ask(3)
    with transaction(floor.db) as session:  # received ten days ago, on hold for four of them
        now = datetime.now(UTC)
        session.execute(update(Request).values(received_at=now - timedelta(days=10), due_at=now + timedelta(days=24)))
        session.execute(
            text("INSERT INTO audit (event, subject_id, leaf) VALUES (:event, :id, :leaf)"),
            [{"event": f"request.{event}", "id": asked, "leaf": canonical(
                {"at": (now - timedelta(days=days)).isoformat(), "fields": {"kind": "identity"}},
            )} for event, days in (("held", 8), ("held", 7), ("resumed", 4))],
        )  # fmt: skip
    concluded(floor, 4)
    drive(floor)
    clock = read(floor, asked)["clock"]
    assert (clock["days_used"], clock["days_allowed"], clock["days_paused"]) == pytest.approx((6, 30, 4), abs=0.01)
    assert clock["in_time"] and clock["extension"] is None and len(clock["pauses"]) == 1


def test_a_late_one_says_so(floor: Floor) -> None:
    asked = floor.ask(3)
    with transaction(floor.db) as session:
        now = datetime.now(UTC)
        session.execute(update(Request).values(received_at=now - timedelta(days=40), due_at=now - timedelta(days=10)))
    concluded(floor, 4)
    drive(floor)
    found = read(floor, asked)
    assert not found["clock"]["in_time"] and found["clock"]["days_used"] > found["clock"]["days_allowed"]
    assert "late: it was due" in fetched(floor, asked, format_="html").text


def test_what_changes_after_the_issue_is_said_beside_it(floor: Floor) -> None:
    request_id = floor.ask(3, domain="copyright")
    concluded(floor, 4)
    drive(floor)
    first = fetched(floor, request_id)
    until = first.json()["not_retestable_after"]
    assert until is not None and first.json()[AS_READ]["content_until"] == until
    assert datetime.fromisoformat(until) > datetime.now(UTC)
    reason = {"reason": "The work is quoted lawfully."}
    floor.caller.call("operator", "POST", f"/v1/requests/{request_id}/counter", json=reason)
    with transaction(floor.db) as session:
        removed = datetime.now(UTC)
        session.execute(update(Request).values(content_removed_at=removed))
    after = fetched(floor, request_id)
    assert after.json()[AS_READ]["state"] == "countered" and after.json()[AS_READ]["content_removed_at"]
    assert after.headers["etag"] != first.headers["etag"]
    assert {**after.json(), AS_READ: None} == {**first.json(), AS_READ: None}
    html = fetched(floor, request_id, format_="html").text
    assert "contested" in html and "They were destroyed" in html and "Not re-testable after" in html


def test_recipients_of_older_versions_are_counted_at_the_issue_and_when_it_is_read(floor: Floor) -> None:
    old = floor.caller.call("operator", "GET", "/v1/models/people/adapters/1")
    ack = "/v1/models/people/replicas/{}/ack"
    for name in ("edge-1", "edge-2"):
        floor.caller.call(
            "operator", "POST", ack.format(name), json={"version": 1, "digest": old["digest"]}
        )
    job_id = concluded(floor)
    drive(floor)
    request_id = asked_of(floor, job_id)
    new = floor.caller.call("operator", "GET", "/v1/models/people/adapters/2")
    floor.caller.call("operator", "POST", ack.format("edge-1"), json={"version": 2, "digest": new["digest"]})
    items = floor.caller.call("officer", "GET", "/v1/models/people/adapters/1/recipients")["items"]
    told = next(one["id"] for one in items if one["name"] == "edge-2")
    floor.caller.call(
        "officer", "POST", f"/v1/models/people/adapters/1/recipients/{told}/notified", json={"channel": "mail"}
    )
    found = read(floor, request_id)
    assert found["recipients"]["replicas"] == {"count": 2, "acknowledged": 0, "notified": 0}
    assert found[AS_READ]["recipients"]["replicas"] == {"count": 2, "acknowledged": 1, "notified": 1}
    assert "edge-1" not in json.dumps(found)


def test_the_openapi_document_shows_formats_errors_and_a_schema_that_holds(floor: Floor) -> None:
    operation = create_app(floor.settings).openapi()["paths"]["/v1/requests/{request_id}/certificate"]["get"]
    answers = operation["responses"]
    assert set(answers) == {"200", "304", "401", "404", "406", "422", "429", "500", "503"}
    assert set(answers["200"]["content"]) == {"application/json", "text/html", "application/pdf"}
    schema = answers["200"]["content"]["application/json"]["schema"]
    assert "$ref" not in json.dumps(schema)
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["properties"]["schema"] == {"const": SCHEMA}
    request_id = asked_of(floor, concluded(floor))
    drive(floor)
    Draft202012Validator(schema).validate(read(floor, request_id))
    broken = {**read(floor, request_id), "note": "x"}
    assert not VALIDATOR.is_valid(broken), "no field but those that are named"
