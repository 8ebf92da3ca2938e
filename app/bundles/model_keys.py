"""The key that signs adapter versions in the form of the `model_signing` package: ECDSA on P-256, from
GRAIL_MODEL_SIGNING_KEY, or from the file that GRAIL_MODEL_SIGNING_KEY_FILE names. Whatever else implements
`app.trust.model_signature.ModelSigner` can stand in its place."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app import private_files
from app.bundles.errors import ModelKeyUnusable
from app.config import Settings
from app.trust.keys import MAX_KEY_BYTES, KeyUnusable
from app.trust.model_signature import ModelSigner, P256Signer

FILE = "model-signing-key.pem"
"""Name, below the data directory, of the key that an embedded service makes for itself."""


def load_model_signer(settings: Settings) -> ModelSigner | None:
    """The key of this process; None when none is set. Raises ModelKeyUnusable, which repeats nothing of it."""
    text = settings.model_signing_key.replace("\\n", "\n")
    try:
        if not text and settings.model_signing_key_file is not None:
            text = private_files.read(settings.model_signing_key_file, MAX_KEY_BYTES)
        return P256Signer.from_pem(text.encode()) if text.strip() else None
    except private_files.NotPrivate as error:
        raise ModelKeyUnusable(f"the file of the model signing key {error}") from None
    except KeyUnusable as error:
        raise ModelKeyUnusable(str(error)) from None


def new_pem() -> bytes:
    """A new private key, PKCS #8, not encrypted."""
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ensure_file(directory: Path) -> Path:
    """The file in `directory` with a key of this service's own, made when it is not there. Raises OSError."""
    return private_files.ensure(directory / FILE, new_pem)
