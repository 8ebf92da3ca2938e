"""The key that signs adapter versions in the form of the `model_signing` package: ECDSA on P-256, from
GRAIL_MODEL_SIGNING_KEY, or from the file that GRAIL_MODEL_SIGNING_KEY_FILE names. Whatever else implements
`app.trust.model_signature.ModelSigner` can stand in its place."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.audit_log import signing
from app.audit_log.errors import NoSigningKey
from app.bundles.errors import ModelKeyUnusable
from app.config import Settings
from app.trust.keys import KeyUnusable
from app.trust.model_signature import ModelSigner, P256Signer

FILE = "model-signing-key.pem"
"""Name, below the data directory, of the key that an embedded service makes for itself."""


def load_model_signer(settings: Settings) -> ModelSigner | None:
    """The key of this process; None when none is set. Raises ModelKeyUnusable, which repeats nothing of it."""
    text = settings.model_signing_key.replace("\\n", "\n")
    try:
        if not text and settings.model_signing_key_file is not None:
            text = signing.read_secret(settings.model_signing_key_file)
        return P256Signer.from_pem(text.encode()) if text.strip() else None
    except NoSigningKey as error:
        raise ModelKeyUnusable(error.detail.replace("signing keys", "the model signing key")) from None
    except KeyUnusable as error:
        raise ModelKeyUnusable(str(error)) from None


def new_pem() -> bytes:
    """A new private key, PKCS #8, not encrypted."""
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ensure_file(directory: Path) -> Path:
    """The file in `directory` with a key of this service's own, readable by its user alone; made when it is not there.
    Safe when two make it at once."""
    path = directory / FILE
    if not path.exists():
        with suppress(FileExistsError):
            signing.write_new(path, new_pem())
    return path
