"""`grail jobs bundle` and `grail adapters attestations`: files as `grail verify` and others read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.audit_log.checkpoints import seal
from app.bundles import model_keys, service
from app.config import Settings
from app.db import Database
from tests.app.bundles.concluded import SIGNER, concluded, signing
from tests.app.service import Caller, Floor
from tests.app.trust.model_signatures import verified
from tests.cli.conftest import Grail


@pytest.fixture
def floor(url: str, db: Database, settings: Settings, tmp_path: Path) -> Iterator[Floor]:
    with httpx.Client(base_url=url, trust_env=False) as client:
        made = Floor(Caller(client, db), settings, tmp_path)  # type: ignore[arg-type]  # it has what callers use
        made.register()
        yield made


def test_a_bundle_is_fetched_and_verified_from_a_checkpoint_that_was_kept(
    floor: Floor, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_KEY", floor.caller.keys["officer"])
    kept, bundle = tmp_path / "kept", tmp_path / "report.zip"
    kept.write_bytes(seal(floor.db, signing(floor.settings)).note)
    job_id = concluded(floor)
    waits = grail("jobs", "bundle", job_id, "-o", bundle, expect=1)
    assert "not signed yet" in waits.err and "How to mend it" in waits.err and not bundle.exists()
    service.drive(floor.db, signing(floor.settings))
    grail("jobs", "bundle", job_id, "-o", bundle, "--since", kept)
    (adapter,) = floor.settings.adapters_dir.glob("people-v000002-*")
    said = grail("verify", bundle, "--key", SIGNER.vkey, "--adapter", adapter, "--since", kept)
    assert [line[:4] for line in said.out.splitlines()] == ["yes "] * 6
    (other := tmp_path / "other.zip").write_bytes(bundle.read_bytes()[:-1] + b"x")
    assert grail("verify", other, "--key", SIGNER.vkey, expect=12).out.startswith("NO")
    grail("jobs", "bundle", job_id, "-o", other, "--since", 1)
    assert "is no checkpoint" in grail("jobs", "bundle", job_id, "--since", bundle, expect=1).err
    assert "is no checkpoint" in grail("jobs", "bundle", job_id, "--since", tmp_path / "gone", expect=1).err


def test_attestations_are_written_as_files(
    floor: Floor, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_KEY", floor.caller.keys["officer"])
    assert "nothing is signed" in grail("adapters", "attestations", "people", 1, expect=1).err
    concluded(floor)
    settings = signing(floor.settings, model_signing_key=model_keys.new_pem().decode())
    service.attest(floor.db, settings)
    service.drive(floor.db, settings)
    said = grail("adapters", "attestations", "people", 2, "-o", tmp_path / "signed")
    names = [Path(line).name for line in said.out.splitlines()]
    assert names == ["erasure.json", "eval-result.json", "model.pub", "model.sig", "provenance.json"]
    verified((tmp_path / "signed" / "model.sig").read_bytes(), (tmp_path / "signed" / "model.pub").read_bytes())
