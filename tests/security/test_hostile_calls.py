"""Calls that try to say something else than they seem: headers, hosts, bodies, files, log lines."""

from __future__ import annotations

import gzip
import io
import json
import uuid
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.imports.run import run
from app.logs import configure_logs
from tests.app.service import Floor
from tests.app.test_openapi import ROLES, address
from tests.fixtures.served import question

EVIL_HOST = "evil.example.net"
BODY: dict[str, Any] = {"served_model": "people", "domain": "privacy", "forget": [question(1)]}
JSONL = {"Content-Type": "application/x-ndjson"}


@pytest.mark.parametrize("path", sorted({path for _, path in ROLES}))
def test_no_answer_repeats_the_host_or_leads_elsewhere(shared: Floor, path: str) -> None:
    """A redirect would name the Host that was sent, and send texts to it a second time."""
    path = address(path)
    for place in (path, f"{path}/", f"/{path}"):
        hostile = {"Host": EVIL_HOST, "X-Forwarded-Host": EVIL_HOST, "Forwarded": f"host={EVIL_HOST}"}
        answer = shared.caller.send("requester", "GET", place, headers=hostile, follow_redirects=False)
        assert answer.status_code not in range(300, 400) and "location" not in answer.headers
        assert EVIL_HOST not in answer.text + str(answer.headers)


def test_what_was_made_is_named_by_its_path_alone(shared: Floor) -> None:
    answer = shared.caller.send("requester", "POST", "/v1/requests", json=BODY, headers={"Host": EVIL_HOST})
    assert answer.headers["location"].startswith("/v1/requests/")


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "HEAD", "TRACE", "CONNECT"])
def test_pages_of_other_origins_are_given_nothing(shared: Floor, method: str) -> None:
    asked = {"Origin": f"https://{EVIL_HOST}", "Access-Control-Request-Method": "POST"}
    answer = shared.caller.send("admin", method, "/v1/requests", headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.status_code == (200 if method == "GET" else 405)


@pytest.mark.parametrize("name", ["Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID", "Accept", "Origin"])
def test_no_header_of_a_call_becomes_a_header_of_its_answer(shared: Floor, name: str) -> None:
    value = b"x\xff; injected-word"
    for path in ("/v1/models/people", f"/v1/jobs/{uuid.uuid4()}/report", "/v1/events"):
        key = shared.caller.header("admin")["Authorization"].encode()
        headers = [(b"authorization", key), (name.encode(), value)]
        answer = shared.caller.client.get(path, headers=headers)
        assert answer.status_code < 500 and "injected-word" not in str(answer.headers) + answer.text


def test_of_a_name_that_stands_twice_the_last_counts_however_it_comes(shared: Floor) -> None:
    """The same for a call and for a row of a file: no proxy's or reader's other opinion is mixed in."""
    raw = json.dumps(BODY)[:-1].encode() + b', "domain": "copyright"}'
    sent = shared.caller.call(
        "requester", "POST", "/v1/requests", 202, content=raw, headers={"Content-Type": "application/json"}
    )
    made = shared.caller.call("other", "POST", "/v1/imports", 202, content=raw, headers=JSONL)
    run(shared.db, shared.settings, uuid.UUID(made["id"]))
    (imported,) = shared.caller.call("other", "GET", "/v1/requests")["items"]
    assert sent["domain"] == imported["domain"] == "copyright"


NUMBERS = ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" + "0" * 400, "-0.0", "1e-400", "9223372036854775808"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("PATCH", "/v1/models/people", '{"policy": {"window_seconds": %s}}'),
        ("PATCH", "/v1/models/people", '{"policy": {"unlearn": {"learning_rate": %s}}}'),
        ("PATCH", "/v1/models/people", '{"policy": {"unlearn": {"seed": %s}}}'),
        ("PATCH", "/v1/models/people", '{"policy": {"unlearn": {"method": "memflex", "options": {"mu": %s}}}}'),
        ("POST", "/v1/models/people/adapters/1/activate", '{"reason": "a good reason", "expected_revision": %s}'),
        ("POST", "/v1/models/people/replicas/r/ack", '{"digest": "", "version": %s}'),
    ],
)
def test_numbers_that_no_column_holds_are_refused_or_read(
    shared: Floor, method: str, path: str, form: str, number: str
) -> None:
    raw, headers = (form % number).encode(), {"Content-Type": "application/json"}
    answer = shared.caller.send("admin", method, path, content=raw, headers=headers)
    assert answer.status_code in {200, 400, 409, 422}
    assert answer.status_code != 200 or number in {"-0.0", "1e-400"}


def nested(depth: int) -> Any:
    found: Any = {}
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize("depth", [50, 500, 900])
def test_free_places_of_a_body_bear_any_depth(shared: Floor, depth: int) -> None:
    deep = nested(depth)
    opendsr = {
        "regulation": "gdpr", "subject_request_id": str(uuid.uuid4()), "subject_request_type": "erasure",
        "submitted_time": "2026-11-26T09:00:00Z", "extensions": {"localhost": deep, "other.example.com": deep},
    }  # fmt: skip
    calls = [("POST", "/opendsr/requests", opendsr), ("PATCH", "/v1/models/people", {"policy": {"unlearn": deep}})]
    for method, path, body in calls:
        assert shared.caller.send("admin", method, path, json=body).status_code in {400, 422}


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../outside.csv", content)
    return made.getvalue()


ARCHIVES = {"zip": zipped(b"\0" * 1_000_000), "gzip": gzip.compress(b"\0" * 1_000_000)}


@pytest.mark.parametrize("kind", ["application/zip", "application/gzip", "application/x-tar", "multipart/form-data"])
def test_the_service_takes_no_archive(shared: Floor, kind: str) -> None:
    found = shared.caller.refused(
        "requester", "POST", "/v1/imports", content=ARCHIVES["zip"], headers={"Content-Type": kind}
    )
    assert found == (415, "unsupported-import")


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/csv"])
def test_an_archive_under_another_name_is_not_unpacked(shared: Floor, name: str, kind: str) -> None:
    made = shared.caller.call(
        "requester", "POST", "/v1/imports", 202, content=ARCHIVES[name], headers={"Content-Type": kind}
    )
    run(shared.db, shared.settings, uuid.UUID(made["id"]))
    assert shared.caller.call("requester", "GET", f"/v1/imports/{made['id']}")["state"] == "refused"
    assert not [path for path in Path(shared.directory).rglob("*") if "outside" in path.name]


FORMULA = "=HYPERLINK(\"http://evil.example.net\")"


def test_faults_of_a_file_hold_no_formula_and_none_of_its_names(shared: Floor) -> None:
    """Whoever opens them in a spreadsheet runs nothing."""
    rows = [{FORMULA: 1}, BODY | {"@SUM(1)": 1}, BODY | {"served_model": FORMULA}, BODY | {"domain": "+1+1"}]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    made = shared.caller.call("requester", "POST", "/v1/imports", 202, content=content, headers=JSONL)
    run(shared.db, shared.settings, uuid.UUID(made["id"]))
    answer = shared.caller.send("requester", "GET", f"/v1/imports/{made['id']}/errors")
    faults = [json.loads(line) for line in answer.text.splitlines()]
    assert {fault["line"] for fault in faults} == {1, 2, 3, 4}
    assert "evil" not in answer.text and "SUM" not in answer.text and "+1" not in answer.text
    assert not [value for fault in faults for value in map(str, fault.values()) if value[:1] in "=+-@\t\r"]
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


LINE = 'x\n{"event": "forged"}\r\n\x1b[31mred'


def test_no_call_writes_a_line_of_its_own_into_the_logs(shared: Floor) -> None:
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        configure_logs("DEBUG")
        for path in (f"/v1/models/{quote(LINE)}", f"/docs/{quote(LINE)}", "/v1/requests"):
            shared.caller.send("admin", "GET", path, params={"client_reference": LINE, "cursor": LINE})
        shared.caller.send("admin", "POST", "/v1/requests", json=BODY | {"client_reference": LINE, LINE: 1})
        shared.caller.send("admin", "POST", "/v1/imports", content=LINE.encode(), headers=JSONL)
        noted = written.getvalue()
    assert "\x1b" not in noted and "\r" not in noted
    assert all(json.loads(line)["event"] != "forged" for line in noted.splitlines())
