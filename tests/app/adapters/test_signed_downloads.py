"""A download carries its signature, and whoever has the key finds each file that is another."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bundles import model_keys, service
from app.trust.keys import Ed25519Signer, KeyUnusable
from app.trust.model_signature import NotSigned, P256Signer, check_model, sign_model
from tests.app.bundles.concluded import signing
from tests.app.service import Floor
from tests.app.trust.model_signatures import differs, verified
from tests.app.trust.test_hostile_evidence import mutated
from tests.cli.conftest import Grail, grail, url

__all__ = ["grail", "url"]

FILES = {"a.json": "11" * 32, "b.safetensors": "22" * 32}
SIGNER, OTHER = (P256Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
SIGNED = sign_model("m-2", FILES, SIGNER)


def members(floor: Floor) -> dict[str, bytes]:
    answer = floor.caller.send("requester", "GET", "/v1/models/people/adapters/1/download")
    assert len(answer.content) == int(answer.headers["content-length"])
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        return {Path(one.name).name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]


def test_a_download_has_the_signature_once_there_is_one(floor: Floor, tmp_path: Path) -> None:
    assert "model.sig" not in members(floor)
    key = model_keys.ensure_file(tmp_path)
    assert service.attest(floor.db, signing(floor.settings, model_signing_key_file=key)) == 1
    found = members(floor)
    for name, data in found.items():
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(data)
    public = P256Signer.from_pem(key.read_bytes()).public_pem
    assert differs(verified(found["model.sig"], public), tmp_path / "unpacked") == []
    named = {one["file"]: one["sha256"] for one in json.loads(found["manifest.json"])["files"]}
    check_model(found["model.sig"], public, named)


def test_the_command_keeps_only_what_the_key_signed(
    floor: Floor, url: str, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_KEY", floor.caller.keys["requester"])
    key = model_keys.ensure_file(tmp_path)
    (ours := tmp_path / "ours.pub").write_bytes(P256Signer.from_pem(key.read_bytes()).public_pem)
    (others := tmp_path / "others.pub").write_bytes(OTHER.public_pem)
    asked = ("adapters", "download", "people", 1, "--out", tmp_path / "out", "--model-key")
    assert "not signed" in grail(*asked, ours, expect=1).err
    service.attest(floor.db, signing(floor.settings, model_signing_key_file=key))
    assert "not one by this key" in grail(*asked, others, expect=1).err
    assert list((tmp_path / "out").iterdir()) == []
    place = Path(grail(*asked, ours).out.strip())
    assert (place / "model.sig").is_file()


def test_another_key_another_file_and_a_missing_one_are_told_apart_from_what_holds() -> None:
    raw = sign_model("m-2", FILES, SIGNER)
    check_model(raw, SIGNER.public_pem, FILES)
    with pytest.raises(NotSigned, match="by this key"):
        check_model(raw, OTHER.public_pem, FILES)
    for files in ({**FILES, "a.json": "33" * 32}, {"a.json": "11" * 32}, {**FILES, "c": "11" * 32}):
        with pytest.raises(NotSigned, match="other files"):
            check_model(raw, SIGNER.public_pem, files)
    for key in (b"", b"nonsense", hashlib.sha256().digest(), Ed25519Signer.new("x").pem()):
        with pytest.raises(KeyUnusable):
            check_model(raw, key, FILES)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_signature_or_none(data: st.DataObject) -> None:
    raw = mutated(data, SIGNED)
    try:
        check_model(raw, SIGNER.public_pem, FILES)
    except NotSigned:
        return
    assert verified(raw, SIGNER.public_pem)
