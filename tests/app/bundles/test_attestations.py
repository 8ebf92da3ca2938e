"""Published versions are signed: how they were made, what was measured and erased, and `model.sig`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.audit_log.errors import NoSigningKey
from app.bundles import model_keys, service
from app.bundles.errors import ModelKeyUnusable
from app.trust.dsse import open_envelope
from app.trust.model_signature import P256Signer
from app.trust.verify import Rejected, check_adapter, parse_keys
from tests.app.bundles.concluded import SIGNER, concluded, signing
from tests.app.bundles.test_report_bundles import directory_of, drive
from tests.app.service import Floor
from tests.app.trust.model_signatures import differs, verified

ENVELOPES = {
    "provenance.json": "https://slsa.dev/provenance/v1",
    "eval-result.json": "urn:grail:predicate:eval-result:1",
    "erasure.json": "urn:grail:predicate:erasure:1",
}


def attested(floor: Floor, version: int, role: str = "operator") -> dict[str, bytes]:
    path = f"/v1/models/people/adapters/{version}/attestations"
    return {one["name"]: one["body"].encode() for one in floor.caller.call(role, "GET", path)["items"]}


def leaves(floor: Floor, event: str) -> list[dict[str, Any]]:
    with floor.db.session_factory() as session:
        rows = session.scalars(text("SELECT leaf FROM audit WHERE event = :event ORDER BY id"), {"event": event})
        return [json.loads(row)["fields"] for row in rows]


def test_a_published_version_has_three_signed_statements_about_its_very_files(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    found = attested(floor, 2)
    assert set(found) == set(ENVELOPES)
    report = floor.caller.call("officer", "GET", f"/v1/jobs/{job_id}/report")
    files = {path.name: path for path in directory_of(floor).iterdir() if path.name != "manifest.json"}
    for name, kind in ENVELOPES.items():
        statement, _, _ = open_envelope(found[name], parse_keys(SIGNER.vkey))
        assert statement["predicateType"] == kind
        digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        assert digests == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        with pytest.raises(Rejected):
            open_envelope(found[name].replace(b'"sig":"', b'"sig":"A', 1), parse_keys(SIGNER.vkey))
    predicates = {name: open_envelope(body, parse_keys(SIGNER.vkey))[0]["predicate"] for name, body in found.items()}
    assert predicates["provenance.json"]["runDetails"]["metadata"]["invocationId"] == str(job_id)
    start = report["model"]["start_adapter"]
    dependencies = predicates["provenance.json"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": start["name"], "digest": {"sha256": start["digest"]}} in dependencies
    assert predicates["erasure.json"]["replaces"] == start["digest"]
    assert [one["id"] for one in predicates["erasure.json"]["requests"]] == [one["id"] for one in report["requests"]]
    assert len(predicates["eval-result.json"]["results"]) == len(report["gate"]["checks"])
    (leaf,) = leaves(floor, "adapter.attested")
    assert leaf == {name.removesuffix(".json"): hashlib.sha256(found[name]).hexdigest() for name in ENVELOPES}


def test_a_rejected_candidate_is_not_attested(floor: Floor) -> None:
    concluded(floor, good=False)
    drive(floor)
    assert attested(floor, 2) == {}


def test_every_published_version_gets_a_model_sig_that_covers_its_directory(floor: Floor, tmp_path: Path) -> None:
    concluded(floor)
    settings = signing(floor.settings, model_signing_key_file=model_keys.ensure_file(tmp_path))
    assert service.attest(floor.db, settings) == 2, "the registered one, and the one that was published"
    assert service.attest(floor.db, settings) == 0
    for version in (1, 2):
        found, directory = attested(floor, version), directory_of(floor, version)
        statement = verified(found["model.sig"], found["model.pub"])
        assert differs(statement, directory) == []
        assert statement["subject"][0]["name"] == directory.name
        (directory / "model.sig").write_bytes(found["model.sig"])
        check_adapter(directory, (directory / "manifest.json").read_bytes())
    digests = {hashlib.sha256(attested(floor, version)["model.sig"]).hexdigest() for version in (1, 2)}
    assert {leaf["signature"] for leaf in leaves(floor, "adapter.signed")} == digests


def test_without_that_key_nothing_fails_and_what_was_published_is_signed_once_there_is_one(
    floor: Floor, tmp_path: Path
) -> None:
    job_id = concluded(floor)
    assert service.attest(floor.db, signing(floor.settings)) == 0
    drive(floor)
    assert floor.caller.send("officer", "GET", f"/v1/jobs/{job_id}/report.zip").status_code == 200
    (broken := tmp_path / "broken.pem").write_text("no key", encoding="ascii")
    broken.chmod(0o600)
    assert service.attest(floor.db, signing(floor.settings, model_signing_key_file=broken)) == 0
    with floor.db.session_factory() as session:
        assert service.unsigned_versions(session)
    key = model_keys.new_pem().decode().replace("\n", "\\n")
    assert service.attest(floor.db, signing(floor.settings, model_signing_key=key)) == 2
    with floor.db.session_factory() as session:
        assert not service.unsigned_versions(session)


def test_keys_that_others_may_read_are_refused_without_a_word_of_them(floor: Floor, tmp_path: Path) -> None:
    path = model_keys.ensure_file(tmp_path)
    assert path == model_keys.ensure_file(tmp_path) and path.stat().st_mode & 0o777 == 0o600
    P256Signer.from_pem(path.read_bytes())
    path.chmod(0o644)
    with pytest.raises(ModelKeyUnusable, match="others may read or change it") as caught:
        model_keys.load_model_signer(signing(floor.settings, model_signing_key_file=path))
    assert "PRIVATE" not in caught.value.detail and caught.value.type != NoSigningKey.type
    assert model_keys.load_model_signer(signing(floor.settings)) is None


def test_requesters_do_not_see_whose_requests_a_version_answers(floor: Floor) -> None:
    path = "/v1/models/people/adapters/1/attestations"
    assert floor.caller.refused("requester", "GET", path) == (403, "forbidden")
    assert floor.caller.refused("officer", "GET", path.replace("/1/", "/9/")) == (404, "not-found")
