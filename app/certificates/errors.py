"""What can be wrong with a certificate, or with what is asked of it."""

from __future__ import annotations

from app.errors import NotFound, ServiceError
from app.storage import BlobDamaged


class CertificateMissing(NotFound):
    """The request has none, or not yet."""

    type, title = "no-certificate", "The request has no certificate of erasure"
    mend = "One is issued within a minute once an erasure is done: GET /v1/requests/{id} shows how far it is."

    def __init__(self, state: str = "running", kind: str = "erase") -> None:
        super().__init__(f"the request to {kind} is {state}", state=state)


class CertificateDamaged(BlobDamaged):
    """The stored document is gone or is no longer what was issued."""

    type, title = "certificate-damaged", "The stored certificate was lost, changed or damaged"
    mend = "Restore the artifacts directory from a backup; whoever has a copy can compare it with the log's digest."


class CertificateRefused(ServiceError):
    """Nothing is certified that the report does not say."""

    status, type, title = 500, "certificate-refused", "The job's report does not say what a certificate needs"
    mend = "Tell those who maintain the service; the ring tries again."
