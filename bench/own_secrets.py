"""Secrets for whoever has set none: benches, and the processes that they start, share them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from app.envelope.kms import new_keys

MASTER = "a secret of benches and of nobody else at all"


def set_secrets() -> None:
    """Set in this process's environment what is not set."""
    os.environ.setdefault("GRAIL_MASTER_SECRET", MASTER)
    os.environ.setdefault("GRAIL_KEY_ENCRYPTION_KEYS", new_keys().decode().strip())
    if "GRAIL_KEY_STORE_URL" not in os.environ:
        place = Path(tempfile.mkdtemp(prefix="grail-bench-keys-"))
        os.environ["GRAIL_KEY_STORE_URL"] = f"sqlite:///{place}/keys.sqlite3"
        os.environ["GRAIL_KEY_TOMBSTONES_FILE"] = str(place / "tombstones")
