"""The keys that sign the audit log: from the environment or a file, or what else implements `app.trust.keys.Signer`.

GRAIL_SIGNING_KEY, or the file that GRAIL_SIGNING_KEY_FILE names, holds one or several Ed25519 keys in PEM (PKCS #8),
one behind the other. Each signs, under the log's name: that is how a key is replaced without a checkpoint that some
auditor can not verify. A service of keys (KMS, HSM) implements `name`, `public`, `key_id` and `sign` of `Signer`; its
object is handed to `issue_checkpoint` in the place of these, and the private key never comes here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import structlog

from app import private_files
from app.audit_log.errors import NoSigningKey
from app.config import Settings
from app.trust.keys import MAX_KEY_BYTES, Ed25519Signer, KeyUnusable, Signer, UnsafeDevelopmentSigner, vkey

log = structlog.get_logger(__name__)

FILE = "signing-key.pem"
"""Name, below the data directory, of the key that an embedded service makes for itself."""
EMBEDDED_ORIGIN = "embedded.grail/log"
"""The log's name of an embedded service that was given none."""
DEVELOPMENT_ORIGIN = "grail-development"
PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
MOST_KEYS = 16


def is_set(settings: Settings) -> bool:
    """Whether this process was given anything to sign with."""
    return bool(settings.signing_key or settings.signing_key_file or settings.signing_unsafe)


def load_signers(settings: Settings) -> list[Signer]:
    """The keys that sign, in the order in which they are written down. Raises NoSigningKey, which repeats nothing of
    them."""
    text = settings.signing_key.replace("\\n", "\n")
    if not text and settings.signing_key_file is not None:
        text = _read(settings.signing_key_file)
    if not text.strip():
        if settings.signing_unsafe:
            return [unsafe_signer(settings.log_origin or DEVELOPMENT_ORIGIN)]
        raise NoSigningKey("neither GRAIL_SIGNING_KEY nor GRAIL_SIGNING_KEY_FILE is set")
    if not settings.log_origin:
        raise NoSigningKey(
            "GRAIL_LOG_ORIGIN is not set, and a log is signed under its name",
            mend="Choose a name that is yours, without spaces, such as log.example.com/erasures. It stays for ever.",
        )
    return list(parse_signers(settings.log_origin, text))


def parse_signers(origin: str, text: str) -> list[Ed25519Signer]:
    """Keys in PEM, one behind the other. Raises NoSigningKey."""
    parts = [found.group().encode() for found in PEM.finditer(text)]
    if not 0 < len(parts) <= MOST_KEYS:
        raise NoSigningKey(f"what is set as signing key holds {len(parts)} keys in PEM; one to {MOST_KEYS} are taken")
    signers = []
    for number, part in enumerate(parts, 1):
        try:
            signers.append(Ed25519Signer.from_pem(origin, part))
        except KeyUnusable as error:
            raise NoSigningKey(f"signing key {number} can not be used: {error}") from None
    if len({signer.public for signer in signers}) != len(signers):
        raise NoSigningKey("the same signing key is set twice")
    return signers


def read_signers(origin: str, path: Path) -> list[Ed25519Signer]:
    """The keys of a file. Raises NoSigningKey."""
    return parse_signers(origin, _read(path))


def verifier_key(signer: Signer) -> str:
    """What auditors are given: `name+id+base64`."""
    return vkey(signer.name, signer.public)


def unsafe_signer(name: str) -> Signer:
    """The development key: anybody can sign with it. Says so."""
    log.warning("log_signed_unsafely", mend="Set GRAIL_SIGNING_KEY_FILE; GRAIL_SIGNING_UNSAFE is for development.")
    return UnsafeDevelopmentSigner(name)


def ensure_file(directory: Path) -> Path:
    """The file in `directory` with a key of this service's own, made when it is not there. Raises OSError."""
    return private_files.ensure(directory / FILE, lambda: _pem([Ed25519Signer.new(EMBEDDED_ORIGIN)]))


def write_key(path: Path, signers: Sequence[Ed25519Signer]) -> None:
    """Put keys into a new file, of mode 0600, whole or not at all. Raises FileExistsError, OSError."""
    private_files.write_new(path, _pem(signers))


def replace_keys(path: Path, signers: Sequence[Ed25519Signer]) -> None:
    """The same in the place of a file that is there. Raises OSError."""
    private_files.replace(path, _pem(signers))


def _pem(signers: Sequence[Ed25519Signer]) -> bytes:
    return b"".join(signer.pem() for signer in signers)


def _read(path: Path) -> str:
    """The file's text. Raises NoSigningKey where it is missing, or where others may read or change it."""
    try:
        return private_files.read(path, MAX_KEY_BYTES)
    except private_files.OpenToOthers as error:
        mend = "Give it to the service's user with mode 0600, and replace the key if it was open long."
        raise NoSigningKey(f"the file of signing keys {error}", mend=mend) from None
    except private_files.NotPrivate as error:
        raise NoSigningKey(f"the file of signing keys {error}") from None
