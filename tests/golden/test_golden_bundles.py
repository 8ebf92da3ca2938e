"""What was issued once verifies for ever: bundles, versions and statements that earlier versions of this code made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from app.trust.dsse import open_envelope
from app.trust.verify import main, parse_keys, verify
from tests.app.trust.model_signatures import differs, verified

HERE = Path(__file__).parent
GOLDEN = {
    "bundle-1": "47e48f57c91da30600d3b7b4e2e34a46227529f63fc21e76443502d0308a03ff",  # report.json names items plainly
    "bundle-2": "d0ea66f931bd74bfebe89cbe41755ee24d3794c838376b2114d06d355a578205",
}
"""Each directory that `make_bundle.py` made, and the SHA-256 of its bundle: none is ever made again."""


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_golden_bundle_verifies(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = HERE / name
    assert hashlib.sha256((place / "report.zip").read_bytes()).hexdigest() == GOLDEN[name]
    given = ["--key", str(place / "keys"), "--adapter", str(place / "adapter"), "--since", str(place / "checkpoint")]
    assert main([str(place / "report.zip"), *given]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("yes ") == 6


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_what_is_signed_about_a_golden_version_verifies(name: str) -> None:
    place = HERE / name
    keys = parse_keys((place / "keys").read_text(encoding="ascii"))
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (place / "adapter").iterdir() if path.name not in {"manifest.json", "model.sig"}
    }  # fmt: skip
    for file in ("provenance.json", "eval-result.json", "erasure.json"):
        statement, _, _ = open_envelope((place / file).read_bytes(), keys)
        assert {one["name"]: one["digest"]["sha256"] for one in statement["subject"]} == digests
    signed = verified((place / "adapter" / "model.sig").read_bytes(), (place / "model.pub").read_bytes())
    assert differs(signed, place / "adapter") == []


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_golden_bundle_with_a_flipped_byte_does_not(name: str) -> None:
    place = HERE / name
    raw, keys = (place / "report.zip").read_bytes(), (place / "keys").read_text(encoding="ascii")
    for at in range(0, len(raw), len(raw) // 50):
        assert not verify(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :], keys, None, None)[0].ok, at


def test_every_golden_directory_is_tested() -> None:
    assert {path.name for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(GOLDEN)
