"""Statements say what they are about in the forms of in-toto and SLSA, and hold under a signature."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.trust import statement as made
from app.trust.dsse import open_envelope, sign_statement
from app.trust.keys import Ed25519Signer
from app.trust.verify import Rejected, parse_keys

AT = datetime(2026, 11, 27, 9, tzinfo=UTC)
FILES = {"b.safetensors": "ab" * 32, "a.json": "cd" * 32}
SIGNER = Ed25519Signer.new("log.example.com")
CHECK = {"name": "min_cus", "scope": "privacy", "comparison": ">=", "bound": 85.0, "value": 97.5, "interval": [95, 99],
         "n": 12, "ok": True}  # fmt: skip
REPORT = {"schema": "grail.report/1", "gate": {"ok": True, "checks": [CHECK]}}


def provenance(**more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "builder": "urn:grail:service:log.example.com", "job_id": "job-1", "settings": {"steps": 3},
        "made_from": [("base model", "ee" * 32)], "versions": {"torch": "2.9"}, "started_at": AT,
        "finished_at": AT + timedelta(hours=1),
    }  # fmt: skip
    return made.provenance(FILES, **{**given, **more})


def erasure() -> dict[str, Any]:
    requests = {"r2": "forgotten in part", "r1": "forgotten"}
    return made.erasure(FILES, requests=requests, replaces="ff" * 32, report_digest="aa" * 32, at=AT)


ALL = {
    "provenance": provenance(), "eval_result": made.eval_result(FILES, REPORT, "aa" * 32, AT), "erasure": erasure(),
    "report": made.about_report(FILES, report_id="r", job_id="j", log="log.example.com", at=AT),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_statement_names_its_files_in_order_and_holds_signed(name: str) -> None:
    statement = ALL[name]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "a.json", "digest": {"sha256": "cd" * 32}}, {"name": "b.safetensors", "digest": {"sha256": "ab" * 32}},
    ]  # fmt: skip
    envelope = sign_statement(statement, [SIGNER])
    opened, _, who = open_envelope(envelope, parse_keys(SIGNER.vkey))
    assert (opened, who) == (statement, f"log.example.com+{SIGNER.key_id}")
    with pytest.raises(Rejected, match=r"not of these bytes|one form|in-toto|JSON"):
        changed = envelope.replace(b'"payload":"e', b'"payload":"f', 1)
        assert changed != envelope
        open_envelope(changed, parse_keys(SIGNER.vkey))


def test_provenance_has_the_fields_of_slsa() -> None:
    statement = provenance()
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["buildType"].startswith("urn:grail:build:")
    assert definition["externalParameters"] == {"settings": {"steps": 3}}
    assert definition["resolvedDependencies"] == [{"name": "base model", "digest": {"sha256": "ee" * 32}}]
    assert run["builder"] == {"id": "urn:grail:service:log.example.com", "version": {"torch": "2.9"}}
    assert run["metadata"] == {
        "invocationId": "job-1", "startedOn": "2026-11-27T09:00:00+00:00", "finishedOn": "2026-11-27T10:00:00+00:00",
    }  # fmt: skip
    assert statement["predicate"]["issued_at"] == "2026-11-27T10:00:00+00:00"


def test_a_result_has_each_check_with_its_bound_and_interval() -> None:
    predicate = ALL["eval_result"]["predicate"]
    assert predicate["passed"] is True and predicate["assuranceLevel"] == "self_attested"
    assert predicate["results"] == [
        {"metric": "min_cus", "scope": "privacy", "comparator": ">=", "threshold": 85.0, "value": 97.5,
         "interval": [95, 99], "sampleSize": 12, "passed": True}
    ]  # fmt: skip
    assert predicate["report"] == {"digest": {"sha256": "aa" * 32}, "schema": "grail.report/1"}


def test_an_erasure_names_requests_in_order_and_what_it_replaces() -> None:
    predicate = erasure()["predicate"]
    assert predicate["requests"] == [
        {"id": "r1", "outcome": "forgotten"}, {"id": "r2", "outcome": "forgotten in part"},
    ]  # fmt: skip
    assert predicate["replaces"] == "ff" * 32


@pytest.mark.parametrize("files", [{}, {"a": "ab"}, {"a": "AB" * 32}, {"a": "zz" * 32}])
def test_what_is_no_digest_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        made.statement(files, "urn:x", {}, AT)


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        made.statement(FILES, "urn:x", {}, AT.replace(tzinfo=None))
