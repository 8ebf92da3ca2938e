"""The OpenAPI document walked operation by operation: what it promises about keys, roles, errors and bounds is so."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import app.audit_log.auditing
import app.envelope.service  # noqa: F401  their kinds of errors are on the page
from app.config import Settings, bounds
from app.errors import ServiceError
from app.main import create_app
from tests.app.service import Floor, revoke, slug

API_PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
PROBLEM_JSON = "application/problem+json"
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
ANYONE = frozenset({"requester", "operator", "officer", "admin"})
OPERATOR = frozenset({"operator", "admin"})
OFFICER = frozenset({"officer", "admin"})
STEWARD = OPERATOR | OFFICER

ROLES: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/requests"): ANYONE,
    ("GET", "/v1/requests"): ANYONE,
    ("GET", "/v1/requests/{request_id}"): ANYONE,
    ("GET", "/v1/requests/{request_id}/certificate"): ANYONE,
    ("DELETE", "/v1/requests/{request_id}"): ANYONE,  # its owner or an officer: see the tests of requests
    ("POST", "/v1/requests/{request_id}/hold"): STEWARD,  # a legal one: officers, see the tests of holds
    ("POST", "/v1/requests/{request_id}/resume"): STEWARD,
    ("POST", "/v1/requests/{request_id}/extend"): STEWARD,
    ("POST", "/v1/requests/{request_id}/refuse"): OFFICER,
    ("POST", "/v1/requests/{request_id}/validate"): OFFICER,
    ("POST", "/v1/requests/{request_id}/counter"): STEWARD,
    ("POST", "/v1/requests/{request_id}/dismiss"): OFFICER,
    ("POST", "/v1/requests/{request_id}/reinstate"): OFFICER,
    ("GET", "/v1/imports"): ANYONE,
    ("POST", "/v1/imports"): ANYONE,
    ("GET", "/v1/imports/{import_id}"): ANYONE,
    ("GET", "/v1/imports/{import_id}/errors"): ANYONE,
    ("GET", "/v1/jobs"): ANYONE,
    ("POST", "/v1/jobs"): OPERATOR,
    ("GET", "/v1/jobs/{job_id}"): ANYONE,
    ("POST", "/v1/jobs/{job_id}/cancel"): OPERATOR,
    ("POST", "/v1/jobs/{job_id}/approve"): OFFICER,
    ("POST", "/v1/jobs/{job_id}/refuse"): OFFICER,
    ("GET", "/v1/jobs/{job_id}/report"): ANYONE,
    ("GET", "/v1/jobs/{job_id}/report.zip"): STEWARD,  # it holds everybody's requests
    ("GET", "/v1/events"): ANYONE,
    ("GET", "/v1/requests/{request_id}/events"): ANYONE,
    ("GET", "/v1/jobs/{job_id}/events"): ANYONE,
    ("POST", "/v1/webhooks"): ANYONE,
    ("GET", "/v1/webhooks"): ANYONE,
    ("GET", "/v1/webhooks/{webhook_id}"): ANYONE,  # its owner or an admin: see the tests of webhooks
    ("DELETE", "/v1/webhooks/{webhook_id}"): ANYONE,
    ("POST", "/v1/webhooks/{webhook_id}/rotate-secret"): ANYONE,
    ("POST", "/v1/webhooks/{webhook_id}/enable"): ANYONE,
    ("POST", "/v1/webhooks/{webhook_id}/test"): ANYONE,
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): ANYONE,
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/replay"): ANYONE,
    ("GET", "/opendsr/discovery"): ANYONE,
    ("GET", "/opendsr/key"): ANYONE,
    ("POST", "/opendsr/requests"): ANYONE,
    ("GET", "/opendsr/requests/{subject_request_id}"): ANYONE,  # its owner alone
    ("DELETE", "/opendsr/requests/{subject_request_id}"): ANYONE,
    ("GET", "/v1/methods"): ANYONE,
    ("GET", "/v1/models"): ANYONE,
    ("POST", "/v1/models"): OPERATOR,
    ("GET", "/v1/models/{name}"): ANYONE,
    ("PATCH", "/v1/models/{name}"): OPERATOR,
    ("POST", "/v1/models/{name}/breaker/close"): OPERATOR,
    ("PUT", "/v1/models/{name}/retain-set"): OPERATOR,
    ("GET", "/v1/models/{name}/retain-set"): STEWARD,
    ("POST", "/v1/models/{name}/replicas/{replica_id}/ack"): OPERATOR,
    ("GET", "/v1/models/{name}/replicas"): ANYONE,
    ("GET", "/v1/models/{name}/adapters"): ANYONE,
    ("GET", "/v1/models/{name}/adapters/{version}"): ANYONE,
    ("GET", "/v1/models/{name}/adapters/{version}/download"): ANYONE,
    ("POST", "/v1/models/{name}/adapters/{version}/activate"): STEWARD,
    ("GET", "/v1/models/{name}/adapters/{version}/attestations"): STEWARD,
    ("GET", "/v1/models/{name}/adapters/{version}/recipients"): OFFICER,
    ("POST", "/v1/models/{name}/adapters/{version}/recipients/{recipient_id}/notified"): OFFICER,
    ("GET", "/v1/officer/queue"): OFFICER,
    ("GET", "/v1/statistics"): OFFICER,
    ("GET", "/v1/reports.zip"): OFFICER,
    ("GET", "/v1/log"): ANYONE,
    ("GET", "/v1/log/checkpoint"): ANYONE,
    ("GET", "/v1/log/keys"): ANYONE,
    ("GET", "/v1/log/proofs/inclusion"): ANYONE,
    ("GET", "/v1/log/proofs/consistency"): ANYONE,
    ("GET", "/v1/log/leaves"): OFFICER,  # they hold ids of everybody's requests
    ("GET", "/v1/log/export"): OFFICER,
}
PARTS = {
    "request_id": str(uuid.uuid4()), "job_id": str(uuid.uuid4()), "name": "nobody", "version": "7", "replica_id": "r1",
    "webhook_id": str(uuid.uuid4()), "delivery_id": str(uuid.uuid4()), "subject_request_id": str(uuid.uuid4()),
    "import_id": str(uuid.uuid4()), "recipient_id": str(uuid.uuid4()),
}  # fmt: skip
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/requests"): {"served_model": "nobody", "domain": "privacy", "forget": [{"passage": "p"}]},
    ("POST", "/v1/requests/{request_id}/hold"): {"kind": "scope", "reason": "a reason that is long enough"},
    ("POST", "/v1/requests/{request_id}/extend"): {"reason": "a reason that is long enough"},
    ("POST", "/v1/requests/{request_id}/refuse"): {"reason": "a reason that is long enough"},
    ("POST", "/v1/requests/{request_id}/counter"): {"reason": "a reason that is long enough"},
    ("POST", "/v1/requests/{request_id}/reinstate"): {},
    ("POST", "/v1/jobs"): {"served_model": "nobody"},
    ("POST", "/v1/webhooks"): {"url": "https://127.0.0.1/"},
    ("POST", "/opendsr/requests"): {
        "regulation": "gdpr", "subject_request_id": str(uuid.uuid4()), "subject_request_type": "access",
        "submitted_time": "2026-11-26T09:00:00Z",
    },
    ("POST", "/v1/jobs/{job_id}/refuse"): {"reason": "a reason that is long enough"},
    ("POST", "/v1/models"): {"name": "other", "base_model_path": "nowhere", "adapter_path": "nowhere"},
    ("PATCH", "/v1/models/{name}"): {},
    ("PUT", "/v1/models/{name}/retain-set"): {"items": []},
    ("POST", "/v1/models/{name}/replicas/{replica_id}/ack"): {"version": 1, "digest": "ab" * 32},
    ("POST", "/v1/models/{name}/adapters/{version}/activate"): {"reason": "because"},
    ("POST", "/v1/models/{name}/adapters/{version}/recipients/{recipient_id}/notified"): {"channel": "mail"},
}
FILES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/imports"): {"content": b"{}", "headers": {"Content-Type": "application/x-ndjson"}},
}
"""Bodies that are no JSON."""
DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
GUARDED = sorted(set(OPERATIONS) - OPEN)


def sent(method: str, path: str) -> dict[str, Any]:
    """A body that an operation takes."""
    return FILES.get((method, path)) or {"json": BODIES.get((method, path))}


def address(path: str) -> str:
    return path.format(**PARTS)


def test_the_tables_of_these_tests_name_every_operation() -> None:
    assert set(ROLES) == set(OPERATIONS) - OPEN
    assert set(BODIES) | set(FILES) == {key for key, operation in OPERATIONS.items() if "requestBody" in operation}


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_nothing_but_health_is_answered_without_a_key(shared: Floor, method: str, path: str) -> None:
    assert "401" in OPERATIONS[method, path]["responses"]
    assert OPERATIONS[method, path]["security"]
    answer = shared.caller.client.request(method, address(path), **sent(method, path))
    assert (answer.status_code, slug(answer)) == (401, "unauthorised")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_the_description_itself_asks_for_a_key_and_takes_it_from_a_browser_too(shared: Floor, path: str) -> None:
    client, key = shared.caller.client, shared.caller.keys["requester"]
    wrong = [{}, {"Authorization": "Basic !"}, {"Authorization": f"Bearer {key}x"}]
    for answer in [client.get(path, headers=headers) for headers in wrong] + [client.get(path, auth=("me", "wrong"))]:
        assert (answer.status_code, slug(answer)) == (401, "unauthorised")
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert "/v1/" not in answer.text
    for answer in (client.get(path, auth=("me", key)), client.get(path, headers=shared.caller.header("requester"))):
        assert answer.status_code == 200
        assert "/v1/requests" in answer.text if path == "/openapi.json" else "/openapi.json" in answer.text
    page = client.get("/docs", auth=("me", key))
    assert "http" not in re.sub(r'"url":[^,]*', "", page.text)  # nothing of another host
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{known}'" and policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    for file in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text):
        assert client.get(file).status_code == 401
        assert len(client.get(file, auth=("me", key)).content) > 100_000
    assert client.get("/docs/../main.py", auth=("me", key)).status_code == 404
    assert client.get("/docs/__init__.py", auth=("me", key)).status_code == 404
    assert client.get("/v1/models", auth=("me", key)).status_code == 401  # calls take bearer tokens only
    assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_each_role_may_what_the_table_says_and_no_more(shared: Floor, method: str, path: str) -> None:
    allowed = ROLES[method, path]
    assert ("403" in OPERATIONS[method, path]["responses"]) or allowed == ANYONE
    for role in sorted(ANYONE):
        answer = shared.caller.send(role, method, address(path), **sent(method, path))
        if role in allowed:
            expected = {400} if (method, path) == ("POST", "/opendsr/requests") else {200, 202, 404, 422}
            assert answer.status_code in expected, f"{role}: {answer.text}"
        else:
            assert (answer.status_code, slug(answer)) == (403, "forbidden"), role
            assert role in answer.json()["detail"]
        assert str(answer.status_code) in OPERATIONS[method, path]["responses"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_role_is_asked_before_the_body_is_judged(shared: Floor, method: str, path: str) -> None:
    allowed = ROLES[method, path]
    if "requestBody" not in OPERATIONS[method, path] or allowed == ANYONE:
        return
    for role in sorted(ANYONE - allowed):
        assert shared.caller.refused(role, method, address(path), json={"wrong": True}) == (403, "forbidden")


def test_the_page_about_the_api_names_every_kind_of_error_with_its_status() -> None:
    rows = [line for line in API_PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| [45]\d\d", line)]
    kinds = {(str(kind.status), kind.type) for kind in every(ServiceError) if kind.__module__.startswith("app.")}
    assert len(kinds) > 30
    for status, name in sorted(kinds):
        assert any(row.startswith("| ") and status in row.split("|")[1] and f"`{name}`" in row for row in rows), name
    named = {name for row in rows for name in re.findall(r"`([a-z]+-[a-z-]+|conflict|forbidden|superseded)`", row)}
    assert named <= {name for _, name in kinds}


def every(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in every(below))]


def test_a_revoked_key_opens_nothing_any_more(shared: Floor) -> None:
    from app.auth import Role
    from app.db import transaction
    from app.keys.service import create_key

    with transaction(shared.db) as session:
        _, plaintext = create_key(session, "leaver", Role.ADMIN)
    headers = {"Authorization": f"Bearer {plaintext}"}
    client = shared.caller.client
    assert client.get("/v1/models", headers=headers).status_code == 200
    revoke(shared.db, plaintext)
    for method, path in GUARDED:
        more = sent(method, path)
        answer = client.request(method, address(path), **more | {"headers": headers | more.get("headers", {})})
        assert (answer.status_code, slug(answer)) == (401, "unauthorised")


@pytest.mark.parametrize("key", sorted(OPERATIONS))
def test_the_errors_that_an_operation_can_meet_are_documented_as_problems(key: tuple[str, str]) -> None:
    operation = OPERATIONS[key]
    documented = set(operation["responses"])
    expected = set() if key == ("GET", "/healthz") else {"503"}
    if key not in OPEN:
        expected |= {"401", "429"}
    if "requestBody" in operation:
        expected |= {"400", "408", "413", "415", "422"}
    if any(p["in"] in {"path", "query"} for p in operation.get("parameters", [])):
        expected |= {"422"}
    if "{" in key[1]:
        expected |= {"404"}
    assert expected <= documented
    for status, response in operation["responses"].items():
        if int(status) >= 400 and key not in OPEN:
            assert set(response["content"]) == {PROBLEM_JSON}, status
            assert response["content"][PROBLEM_JSON]["schema"] == {"$ref": "#/components/schemas/Problem"}
            example = response["content"][PROBLEM_JSON].get("example")
            assert example is None or example["status"] == int(status)


def test_the_document_is_whole() -> None:
    names = set(DOCUMENT["components"]["schemas"])
    wanted = {ref.rsplit("/", 1)[1] for ref in refs(DOCUMENT)}
    assert wanted <= names
    assert not {"HTTPValidationError", "ValidationError"} & names
    assert all(operation.get("summary") for operation in OPERATIONS.values())


def refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from refs(value)


def unbounded(schema: dict[str, Any], where: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Places of a schema at which a text or list has no bound."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name not in seen:
            yield from unbounded(DOCUMENT["components"]["schemas"][name], f"{where}:{name}", seen | {name})
        return
    for choice in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from unbounded(choice, where, seen)
    kind = schema.get("type")
    if kind == "string" and not {"maxLength", "pattern", "enum", "const", "format"} & set(schema):
        yield where
    if kind == "array":
        if "maxItems" not in schema:
            yield where
        yield from unbounded(schema.get("items", {}), f"{where}[]", seen)
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(part, f"{where}.{name}", seen)


@pytest.mark.parametrize("key", GUARDED)
def test_every_text_and_list_that_comes_in_has_its_bound_in_the_document(key: tuple[str, str]) -> None:
    operation = OPERATIONS[key]
    found = [
        place
        for parameter in operation.get("parameters", [])
        for place in unbounded(parameter["schema"], parameter["name"])
    ]
    content = operation.get("requestBody", {}).get("content", {})
    if key in FILES:
        return  # the setting bounds it, while it is read
    found += [place for media in content.values() for place in unbounded(media["schema"], "body")]
    assert found == []


@pytest.mark.parametrize(
    ("settings", "schema", "field", "bound"),
    [
        ("max_items_per_request", "RequestCreate", "forget", "maxItems"),
        ("max_items_per_request", "RequestCreate", "retain", "maxItems"),
        ("max_probes_per_item", "Item", "probes", "maxItems"),
        ("max_facts_per_item", "Item", "facts", "maxItems"),
        ("max_text_chars", "Item", "passage", "maxLength"),
        ("max_note_chars", "RequestCreate", "note", "maxLength"),
        ("max_reference_chars", "RequestCreate", "client_reference", "maxLength"),
        ("max_retain_set_items", "RetainSetPut", "items", "maxItems"),
        ("max_note_chars", "Refusal", "reason", "maxLength"),
        ("max_note_chars", "Activate", "reason", "maxLength"),
    ],
)
def test_each_bound_of_the_settings_stands_in_the_document(settings: str, schema: str, field: str, bound: str) -> None:
    shown = DOCUMENT["components"]["schemas"][schema]["properties"][field]
    shown = next((choice for choice in shown.get("anyOf", []) if bound in choice), shown)
    assert shown[bound] == getattr(bounds(), settings)


def test_every_body_has_an_example_that_its_own_schema_takes() -> None:
    from jsonschema import Draft202012Validator

    for key in BODIES:
        (media,) = OPERATIONS[key]["requestBody"]["content"].values()
        name = media["schema"]["$ref"].rsplit("/", 1)[1]
        schema = {**media["schema"], "components": DOCUMENT["components"]}
        examples = DOCUMENT["components"]["schemas"][name]["examples"]
        assert examples, key
        for example in examples:
            Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Bearer x", "Basic Z3JhaWw6eA==", "bearer grail_00000000_x", "Bearer grail__x",
        "Bearer grail_00000000_", "Bearer grail_%00000000_x", "Bearer grail_00000000_" + "x" * 10_000,
        "Bearer grail_0000000g_x", "grail_00000000_x", "Bearer grail_\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9_x",
        "Bearer grail_00\x000000_x",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_in_the_same_words(shared: Floor, header: str) -> None:
    answer = shared.caller.client.get("/v1/models", headers=[(b"authorization", header.encode("latin-1"))])
    bare = shared.caller.client.get("/v1/models")
    assert (answer.status_code, answer.json()) == (401, bare.json())


def test_a_key_with_another_secret_is_refused_in_the_same_words(shared: Floor) -> None:
    right = shared.caller.keys["admin"]
    for wrong in (right[:-1], right + "x", right[:-1] + ("a" if right[-1] != "a" else "b"), right.upper()):
        answer = shared.caller.client.get("/v1/models", headers={"Authorization": f"Bearer {wrong}"})
        assert (answer.status_code, answer.json()) == (401, shared.caller.client.get("/v1/models").json())
