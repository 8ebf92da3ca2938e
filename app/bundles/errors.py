"""What can be wrong with a bundle, or with what is asked of it."""

from __future__ import annotations

from typing import ClassVar

from app.errors import Conflict, ServiceError
from app.storage import BlobDamaged


class BundleMissing(Conflict):
    """It is not there yet; `waits_for` says what for."""

    type, title = "no-bundle-yet", "The report's bundle is not there yet"
    mend = "It is made within a minute of the job's end. `waits_for` says what is missing; ask again."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}

    def __init__(self, waits_for: str = "seal", detail: str | None = None, mend: str | None = None) -> None:
        super().__init__(detail, mend=mend, waits_for=waits_for)


class BundleDamaged(BlobDamaged):
    """Files of the bundle are gone, or no longer those that were signed."""

    type, title = "stored-bundle-damaged", "The files of the report's bundle were lost, changed or damaged"
    mend = "Restore the artifacts directory from a backup; whoever has a copy of the bundle can go on verifying it."


class BundleRefused(ServiceError):
    """What would be signed does not hold by the auditor's own program, so it is not signed."""

    status, type, title = 500, "bundle-refused", "The report does not hold, so it is not signed"
    mend = "Tell those who maintain the service; `grail doctor` counts such reports."


class ModelKeyUnusable(ServiceError):
    """Versions are published all the same, without `model.sig`."""

    status, type, title = 500, "model-signing-key-unusable", "The key that signs adapter versions can not be used"
    mend = (
        "Make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out model-key.pem`, chmod 600, "
        "and set GRAIL_MODEL_SIGNING_KEY_FILE to it for the control worker. What was not signed is signed then."
    )
