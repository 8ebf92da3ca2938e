"""Reports over HTTP: formats, caching, who sees what, and every documented error."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from report_documents import of_before, rejected_for_a_request, sample, text_of_html, text_of_pdf
from sqlalchemy import select

from app.audit.service import record
from app.audit_log.checkpoints import issue as sign_log
from app.audit_log.sequencing import number_all
from app.db import transaction
from app.keys import repository as key_rows
from app.lifecycle import JobState
from app.main import create_app
from app.reports.schemas import FIRST_SCHEMA, json_schema
from app.reports.service import LATE, store
from app.storage import FileStore
from app.tables import ServedModel
from app.trust.canonical import canonical, digest
from tests.app.bundles.concluded import signing

FORMATS = ("json", "html", "pdf")
MEDIA = {"json": "application/json", "html": "text/html; charset=utf-8", "pdf": "application/pdf"}


@pytest.fixture
def get(client, keys):
    def send(job_id: str, format_: str | None = None, key: str = "officer", expect: int = 200, **headers: str) -> Any:
        params = {"format": format_} if format_ else {}
        path = f"/v1/jobs/{job_id}/report"
        answer = client.get(path, params=params, headers=keys.header(key) | headers)
        assert answer.status_code == expect, answer.text[:500]
        return answer

    return send


def text_of(answer: Any) -> str:
    """What a reader sees, in one line."""
    readers = {MEDIA["pdf"]: text_of_pdf, MEDIA["html"]: text_of_html}
    return readers.get(answer.headers["content-type"], bytes.decode)(answer.content)


def test_json_is_the_document_and_checks_against_its_digest(make_job, get):
    answer = get(make_job(sample()))
    served = answer.json()
    late = {name: served.pop(name) for name in LATE}
    assert late == {"replicas_not_acknowledged": [], "approvals": [], "audit_position": None}
    assert served == sample()
    assert answer.headers["etag"] == f'"{hashlib.sha256(canonical(served)).hexdigest()}"'
    assert answer.content == canonical({**served, **late})
    Draft202012Validator(json_schema()).validate(answer.json())


@pytest.mark.parametrize("format_", FORMATS)
def test_each_format_has_its_type_its_name_and_safe_headers(make_job, get, format_):
    job_id = make_job(sample())
    answer = get(job_id, format_)
    assert answer.headers["content-type"] == MEDIA[format_]
    assert answer.headers["content-disposition"] == f'inline; filename="grail-report-{job_id}.{format_}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["vary"] == "Accept, Authorization"
    assert answer.headers["cache-control"] == "no-store"


def test_the_page_may_run_and_fetch_nothing(make_job, get):
    policy = get(make_job(sample()), "html").headers["content-security-policy"]
    rules = {name: value for name, _, value in (rule.strip().partition(" ") for rule in policy.split(";"))}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["sandbox"] == ""
    assert rules["style-src"].startswith("'sha256-") and "unsafe" not in policy
    assert set(rules) == {"default-src", "style-src", "base-uri", "form-action", "frame-ancestors", "sandbox"}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("application/pdf", "pdf"),
        ("application/pdf;q=0.5, application/json;q=0.4", "pdf"),
        ("*/*", "json"),
    ],
)
def test_the_accept_header_chooses(make_job, get, accept, media):
    assert get(make_job(sample()), accept=accept).headers["content-type"] == MEDIA[media]


def test_a_named_format_goes_before_the_accept_header(make_job, get):
    assert get(make_job(sample()), "json", accept="text/html").headers["content-type"] == MEDIA["json"]


def test_what_can_not_be_accepted_is_refused(make_job, get):
    problem = get(make_job(sample()), accept="image/png", expect=406).json()
    assert problem["type"] == "urn:grail:problem:not-acceptable" and "?format=" in problem["mend"]


def test_an_unknown_format_is_refused(make_job, get):
    assert get(make_job(sample()), "docx", expect=422).json()["errors"][0]["field"] == "query.format"


@pytest.mark.parametrize("format_", FORMATS)
def test_a_known_tag_is_answered_without_a_body(make_job, get, format_):
    job_id = make_job(sample())
    tag = get(job_id, format_).headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        again = get(job_id, format_, expect=304, **{"If-None-Match": known})
        assert again.content == b"" and again.headers["etag"] == tag
    assert get(job_id, format_, **{"If-None-Match": f'"{"0" * 64}"'}).content


def test_each_representation_has_a_tag_of_its_own(make_job, get):
    job_id = make_job(sample())
    tags = {get(job_id, format_).headers["etag"] for format_ in FORMATS}
    tags.add(get(job_id, key="requester").headers["etag"])
    assert len(tags) == 4


@pytest.mark.parametrize("format_", FORMATS)
def test_replicas_that_lag_are_told_and_change_the_tag(make_job, get, replica_behind, format_):
    job_id = make_job(sample())
    before = get(job_id, format_)
    replica_behind(job_id)
    after = get(job_id, format_, **{"If-None-Match": before.headers["etag"]})
    assert "edge-7" in text_of(after) and "edge-7" not in text_of(before)
    document = get(job_id).json()
    assert [row["version"] for row in document["replicas_not_acknowledged"]] == [2]
    assert {"replica_id", "version", "acknowledged_at"} == set(document["replicas_not_acknowledged"][0])
    Draft202012Validator(json_schema()).validate(document)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_requester_gets_its_own_requests_only(make_job, get, format_):
    document = sample()
    document["requests"][0]["legal_basis"], document["requests"][3]["legal_basis"] = "Mine to see", "Not mine to see"
    job_id = make_job(document)
    own, other = ([r["id"] for r in document["requests"][part]] for part in (slice(0, 2), slice(2, 4)))
    shown = text_of(get(job_id, format_, "requester"))
    whole = text_of(get(job_id, format_, "officer"))
    assert "excerpt for one requester" in shown and "excerpt" not in whole
    assert "Mine to see" in shown and "Not mine to see" not in shown and "Not mine to see" in whole
    for request_id in own:
        assert request_id in shown and request_id in whole
    for request_id in other:
        assert request_id[-12:] not in shown and request_id in whole
    hidden = [e["id"] for e in document["examples"] if e["request"] in other]
    seen = [e["id"] for e in document["examples"] if e["request"] in own]
    assert hidden and not any(key in shown for key in hidden)
    assert seen and all(key in shown for key in seen)


def test_an_excerpt_says_that_somebody_elses_check_failed_and_not_which(make_job, get):
    job_id = make_job(rejected_for_a_request(3), JobState.REJECTED)
    assert "12.5" in text_of(get(job_id, "html", "officer"))
    shown = text_of(get(job_id, "html", "requester"))
    assert "A check on other requests of the same job did not hold" in shown
    assert "12.5" not in shown and "0 of" not in shown.split("In short")[0]
    assert get(job_id, "json", "requester").json()["gate"]["ok"] is False


@pytest.mark.parametrize("format_", FORMATS)
def test_every_check_and_every_example_is_in_every_format(make_job, get, format_):
    document = sample()
    shown = text_of(get(make_job(document), format_))
    for check in document["gate"]["checks"]:
        assert check["name"] in shown
    assert all(example["id"] in shown and example["subject_id"] in shown for example in document["examples"])
    for adapter in ("start_adapter", "candidate_adapter"):
        assert document["model"][adapter]["digest"] in shown
    assert all(sentence in shown for sentence in document["limits"])
    if format_ != "json":
        assert "did not hold" not in shown
        assert shown.count(" held ") >= len(document["gate"]["checks"])
        assert digest(document) in shown


@pytest.mark.parametrize("key", ["requester", "operator", "officer", "admin"])
def test_every_role_may_read(make_job, get, key):
    job_id = make_job(sample())
    assert get(job_id, key=key).json()["schema"] == sample()["schema"]


def test_nobody_reads_without_a_key(client, make_job):
    answer = client.get(f"/v1/jobs/{make_job(sample())}/report")
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:grail:problem:unauthorised")


def test_other_peoples_jobs_and_unknown_jobs_look_the_same(client, make_job, get, db, keys):
    from app.auth import Role
    from app.keys.service import create_key

    with transaction(db) as session:
        stranger = create_key(session, "stranger", Role.REQUESTER)[1]
    headers = {"Authorization": f"Bearer {stranger}"}
    job_id = make_job(sample())
    answers = [client.get(f"/v1/jobs/{key}/report", headers=headers) for key in (job_id, uuid.uuid4())]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()
    get("not-an-id", expect=422)


def test_a_job_that_has_not_come_that_far_says_how_far_it_is(make_job, get):
    problem = get(make_job(None, JobState.QUEUED), expect=404).json()
    assert problem["type"] == "urn:grail:problem:no-report-yet"
    assert (problem["state"], problem["stage"]) == ("queued", "unlearn")


@pytest.mark.parametrize("harm", ["changed", "gone"])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_report_that_is_not_what_was_issued_is_not_shown(make_job, get, settings, format_, harm):
    job_id = make_job(sample())
    known = digest(sample())
    blob = settings.artifacts_dir / known[:2] / known
    if harm == "gone":
        blob.unlink()
    else:
        blob.write_bytes(blob.read_bytes().replace(b'"ok":true', b'"ok": true', 1))
    answer = get(job_id, format_, expect=500)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:grail:problem:report-damaged"
    assert "GDPR" not in answer.text


def test_the_openapi_document_shows_formats_errors_and_a_schema_that_holds(settings, make_job, get):
    operation = create_app(settings).openapi()["paths"]["/v1/jobs/{job_id}/report"]["get"]
    answers = operation["responses"]
    assert set(answers) == {"200", "304", "401", "404", "406", "422", "429", "500", "503"}
    assert set(answers["200"]["content"]) == {"application/json", "text/html", "application/pdf"}
    schema = answers["200"]["content"]["application/json"]["schema"]
    assert "$ref" not in json.dumps(schema)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(get(make_job(sample())).json())
    assert {p["name"] for p in operation["parameters"]} == {"job_id", "format", "if-none-match"}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_report_from_before_is_read_as_it_was_issued(make_job, get, format_):
    job_id = make_job(of_before())
    answer = get(job_id, format_)
    assert digest(of_before()) in answer.headers["etag"]
    if format_ == "json":
        served = answer.json()
        Draft202012Validator(json_schema(FIRST_SCHEMA)).validate(served)
        assert {name: value for name, value in served.items() if name not in LATE} == of_before()
        assert not Draft202012Validator(json_schema()).is_valid(served)
    else:
        shown = text_of(answer)
        assert "Controls (the same run with random regions, and with none): not run." in shown
        assert "General ability: not measured" in shown and "EDPB Opinion 28/2024" in shown


@pytest.mark.parametrize("format_", FORMATS)
def test_what_officers_decide_is_told_beside_the_report_and_changes_the_tag(make_job, get, client, keys, db, format_):
    job_id = make_job(sample(), JobState.AWAITING_APPROVAL)
    with transaction(db) as session:
        session.scalars(select(ServedModel)).one().policy = {"approvals_required": 2}
    before = get(job_id, format_)
    assert client.post(f"/v1/jobs/{job_id}/approve", headers=keys.header("officer")).status_code == 200
    approved = get(job_id, format_)
    said = {"reason": "The intervals are too wide to sign off."}
    assert client.post(f"/v1/jobs/{job_id}/refuse", headers=keys.header("admin"), json=said).status_code == 200
    refused = get(job_id, format_)
    tags = {answer.headers["etag"] for answer in (before, approved, refused)}
    assert len(tags) == 3 and all(digest(sample()) in tag for tag in tags)
    assert "intervals are too wide" not in text_of(refused)
    if format_ == "json":
        found = refused.json()
        Draft202012Validator(json_schema()).validate(found)
        assert [(one["decision"], one["role"]) for one in found["approvals"]] == [
            ("approved", "officer"), ("refused", "admin"),
        ]  # fmt: skip
        assert approved.json()["approvals"] == found["approvals"][:1] and before.json()["approvals"] == []
    else:
        assert "approved officer" in text_of(approved) and "refused admin" in text_of(refused)
        assert "No officer has decided" in text_of(before)


def test_approvals_from_before_these_had_rows_are_told_from_the_trail(make_job, get, db, keys):
    job_id = make_job(sample(), JobState.PUBLISHED)
    with transaction(db) as session:
        officer = key_rows.by_prefix(session, keys.officer.split("_")[1])
        record(session, "job.approved", subject_id=job_id, key_id=str(officer.id))
        named = str(officer.id)
    (found,) = get(job_id).json()["approvals"]
    assert (found["decision"], found["key_id"], found["role"]) == ("approved", named, "officer")


@pytest.mark.parametrize("format_", FORMATS)
def test_the_place_in_the_audit_log_is_told_once_there_is_one_and_stays(make_job, get, db, settings, format_):
    job_id = make_job(sample())
    before = get(job_id, format_)
    number_all(db)
    numbered = get(job_id, format_)
    sign_log(db, signing(settings))
    signed = get(job_id, format_)
    with transaction(db) as session:
        record(session, "job.queued", subject_id=job_id)
    number_all(db)
    sign_log(db, signing(settings))
    assert get(job_id, format_).headers["etag"] == signed.headers["etag"], "the first checkpoint over it stays"
    assert len({answer.headers["etag"] for answer in (before, numbered, signed)}) == 3
    place = get(job_id).json()["audit_position"]
    Draft202012Validator(json_schema()).validate(get(job_id).json())
    if format_ == "json":
        assert numbered.json()["audit_position"] == {"position": place["position"], "checkpoint": None}
    else:
        assert "no number in the log yet" in text_of(before)
        assert f"leaf {place['position']}" in text_of(signed) and place["checkpoint"]["root"] in text_of(signed)


def test_what_is_filled_in_at_reading_is_never_part_of_the_digest(settings):
    late = {"replicas_not_acknowledged": [{}], "approvals": [{}], "audit_position": {"position": 1}}
    assert set(late) == set(LATE)
    assert store(sample() | late, FileStore(settings.artifacts_dir)) == digest(sample())
