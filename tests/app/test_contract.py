"""schemathesis against the OpenAPI document, with a real database behind it: whatever is sent, no answer is a 5xx, and
every answer is one that the document describes.

Both modes, chosen on purpose: in positive mode bodies follow the schema and are aimed at things that exist, and rules
beyond the schema may still refuse them (so acceptance is not checked); in negative mode what breaks the schema must be
refused. Keys and methods have tests of their own.
"""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from app.audit_log.checkpoints import issue_checkpoint
from app.audit_log.sequencing import number_all
from app.config import Settings
from app.db import transaction
from app.imports.run import run
from app.main import create_app
from app.trust.keys import Ed25519Signer
from tests.app.service import Floor

CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection",
]  # fmt: skip
EXAMPLES = 12
"""Generated calls of an operation and mode, beside those that cover its bounds."""


CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"with-security-parameters": False},
        "checks": {
            "enabled": False,
            **{name: {"enabled": True} for name in CHECKS},
            "negative_data_rejection": {"enabled": True, "expected-statuses": [400, 404, 409, 413, 415, 422]},
        },
    }
)


def aimed(real: dict[str, Any], case: Any) -> Any:
    """The same call aimed at what exists, in three of four positive ones."""
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and random.Random(repr(case.body)).random() < 0.75:
        case.path_parameters = {name: real[name] for name in case.path_parameters or {}}
        if isinstance(case.body, dict) and "served_model" in case.body:
            case.body["served_model"] = real["name"]
        if isinstance(case.body, dict) and "base_model_path" in case.body:
            case.body |= {"base_model_path": real["base"], "adapter_path": real["adapter"]}
    return case


def imported(shared: Floor) -> str:
    """The id of an import that has ended, with a fault."""
    sent = {"content": b"{", "headers": {"Content-Type": "application/x-ndjson"}}
    made = shared.caller.call("requester", "POST", "/v1/imports", 202, **sent)
    run(shared.db, shared.settings, uuid.UUID(made["id"]))
    return str(made["id"])


@pytest.fixture(scope="module")
def document(shared: Floor) -> Any:
    """A model with two versions, a published job, a request, a replica; and the schema of the application."""
    request_id = shared.ask(1)
    job_id = shared.work()
    digest = shared.caller.call("operator", "GET", "/v1/models/people/adapters/2")["digest"]
    shared.caller.call(
        "operator", "POST", "/v1/models/people/replicas/edge-1/ack", json={"version": 2, "digest": digest}
    )
    hook = shared.caller.call("admin", "POST", "/v1/webhooks", 201, json={"url": "https://93.184.215.14/"})
    hook_path = f"/v1/webhooks/{hook['id']}"
    delivery = shared.caller.call("admin", "POST", f"{hook_path}/test", 202)
    number_all(shared.db)
    with transaction(shared.db) as session:
        issue_checkpoint(session, [Ed25519Signer.new("log.example.com")], datetime.now(UTC))
    named = str(uuid.uuid4())
    shared.ask(2, role="admin", client_reference=named)
    real = {
        "import_id": imported(shared),
        "name": "people", "version": 2, "job_id": str(job_id), "request_id": request_id, "replica_id": "edge-1",
        "recipient_id": str(shared.caller.who["operator"].key_id),
        "webhook_id": hook["id"], "delivery_id": delivery["id"], "subject_request_id": named,
        "base": str(shared.base), "adapter": str(shared.adapter),
    }  # fmt: skip
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", create_app(shared.settings), config=CONFIG, headers=shared.caller.header("requester")
    )

    def map_case(context: Any, case: Any) -> Any:
        return aimed(real, case)

    schema.hook(map_case)
    return schema


OPERATIONS = [
    (method, path)
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method in methods
    if not path.endswith(("/report", "/certificate"))  # they have tests of their own, and PDFs take their time
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_service_is_as_its_document_says(
    document: Any, shared: Floor, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    if mode.is_negative and not (operation.query or operation.path_parameters or operation.body):
        pytest.skip("takes nothing that could be wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    def check(case: Any) -> None:
        case.call_and_validate(headers=shared.caller.header("admin"))

    check()
