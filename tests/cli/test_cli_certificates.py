"""`grail requests certificate`: JSON to standard output, HTML and PDF to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.certificates import issuing
from tests.app.bundles.concluded import concluded
from tests.app.service import Floor
from tests.cli.conftest import Grail
from tests.cli.test_cli_bundles import floor

__all__ = ["floor"]


def test_a_certificate_is_fetched_in_every_format_by_whoever_may_see_the_request(
    floor: Floor, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_KEY", floor.caller.keys["requester"])
    request_id = floor.caller.call("officer", "GET", f"/v1/jobs/{concluded(floor)}")["request_ids"][0]
    waits = grail("requests", "certificate", request_id, expect=1)
    assert "no certificate" in waits.err or "to erase is published" in waits.err
    issuing.drive(floor.db, floor.settings)
    found = json.loads(grail("requests", "certificate", request_id).out)
    assert (found["schema"], found["request"]["id"]) == ("grail.certificate/1", request_id)
    pdf, html = tmp_path / "certificate.pdf", tmp_path / "certificate.html"
    said = grail("requests", "certificate", request_id, "--pdf", pdf, "--html", html)
    assert said.out == "" and f"Written to {pdf}" in said.err.replace("\n", "")
    assert pdf.read_bytes().startswith(b"%PDF-") and html.read_bytes().startswith(b"<!doctype html>")
    monkeypatch.setenv("GRAIL_KEY", floor.caller.keys["other"])
    assert "no request with this id" in grail("requests", "certificate", request_id, expect=1).err
