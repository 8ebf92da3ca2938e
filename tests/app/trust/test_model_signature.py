"""`model.sig` holds by a verifier of these tests' own, and by the package itself where that is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from app.trust.keys import KeyUnusable
from app.trust.model_signature import SIGNATURE, P256Signer, sign_model
from tests.app.trust.model_signatures import differs, verified

KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = P256Signer(KEY)
FILES = {"adapter_config.json": b'{"r": 4}', "adapter_model.safetensors": b"weights"}


def model(directory: Path) -> dict[str, str]:
    """A signed directory with a manifest that is not signed."""
    for name, data in {**FILES, "manifest.json": b"{}"}.items():
        (directory / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    (directory / SIGNATURE).write_bytes(sign_model("people-v2", digests, SIGNER, ("manifest.json",)))
    return digests


def test_it_holds_for_the_directory_and_for_no_other_byte(tmp_path: Path) -> None:
    model(tmp_path)
    statement = verified((tmp_path / SIGNATURE).read_bytes(), SIGNER.public_pem)
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["name"] == "people-v2"
    assert differs(statement, tmp_path) == []
    (tmp_path / "adapter_model.safetensors").write_bytes(b"Weights")
    (tmp_path / "added.json").write_bytes(b"{}")
    assert differs(statement, tmp_path) == ["adapter_model.safetensors", "added.json"]


def test_another_key_or_another_statement_does_not_verify(tmp_path: Path) -> None:
    model(tmp_path)
    signature = (tmp_path / SIGNATURE).read_bytes()
    with pytest.raises(InvalidSignature):
        verified(signature, P256Signer(ec.generate_private_key(ec.SECP256R1())).public_pem)
    bundle = json.loads(signature)
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-4] + "AAAA"
    with pytest.raises(InvalidSignature):
        verified(json.dumps(bundle).encode(), SIGNER.public_pem)


def test_the_form_is_a_sigstore_bundle_with_a_hint_of_the_key(tmp_path: Path) -> None:
    model(tmp_path)
    bundle = json.loads((tmp_path / SIGNATURE).read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = hashlib.sha256(SIGNER.public_pem).hexdigest()
    assert bundle["verificationMaterial"] == {"publicKey": {"hint": hint}, "tlogEntries": []}
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"


def pem(key: object, password: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)  # type: ignore[attr-defined,no-any-return]


def test_keys_are_read_from_pem() -> None:
    assert P256Signer.from_pem(pem(KEY)).public_pem == SIGNER.public_pem
    assert P256Signer.from_pem(pem(KEY, b"secret"), b"secret").public_pem == SIGNER.public_pem


@pytest.mark.parametrize(
    "text",
    [b"", b"no PEM", pem(KEY, b"secret"), pem(ed25519.Ed25519PrivateKey.generate()),
     pem(ec.generate_private_key(ec.SECP384R1()))],
    ids=["empty", "no-pem", "no-password", "ed25519", "p384"],
)  # fmt: skip
def test_other_keys_are_refused_without_a_word_of_them(text: bytes) -> None:
    with pytest.raises(KeyUnusable) as caught:
        P256Signer.from_pem(text)
    assert "PRIVATE" not in str(caught.value)


def test_the_package_itself_verifies_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("model_signing") is None:
        pytest.skip("the package model_signing is not installed: its own verifier was not asked")
    import model_signing

    key, directory = tmp_path / "key.pub", tmp_path / "model"
    key.write_bytes(SIGNER.public_pem)
    directory.mkdir()
    model(directory)
    paths = [directory / "manifest.json", directory / SIGNATURE]
    ignored = model_signing.hashing.Config().set_ignored_paths(paths=paths)
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key)
    verifier.set_hashing_config(ignored).verify(directory, directory / SIGNATURE)
