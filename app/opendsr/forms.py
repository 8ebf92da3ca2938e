"""How a request of ours looks in OpenDSR's words. Pure."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from app.lifecycle import RequestState

API_VERSION = "2.0"
DOMAIN_HEADER, SIGNATURE_HEADER = "X-OpenDSR-Processor-Domain", "X-OpenDSR-Signature"


class Status(StrEnum):
    """The statuses that the specification has."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


_R = RequestState
STATUS: dict[RequestState, Status] = {
    **dict.fromkeys((_R.NOTICE, _R.RECEIVED, _R.QUEUED, _R.BATCHED, _R.ON_HOLD, _R.LINKED), Status.PENDING),
    **dict.fromkeys((_R.RUNNING, _R.EVALUATED, _R.AWAITING_APPROVAL, _R.NEEDS_ATTENTION), Status.IN_PROGRESS),
    **dict.fromkeys((_R.PUBLISHED, _R.STANDING, _R.COUNTERED, _R.REINSTATED), Status.COMPLETED),
    **dict.fromkeys((_R.WITHDRAWN, _R.REFUSED, _R.FAILED), Status.CANCELLED),
}
"""A request that was refused or failed is cancelled in these words; our extension says which."""
ENDS = frozenset({Status.COMPLETED, Status.CANCELLED})


def domain_of(public_url: str) -> str:
    """The processor's domain: the host that callers reach the service under."""
    return urlsplit(public_url).hostname or "localhost"


def callback_body(
    *, url: str, key_id: uuid.UUID, subject_request_id: str, status: Status, expected: datetime
) -> dict[str, Any]:
    """What a status callback says."""
    return {
        "controller_id": str(key_id),
        "expected_completion_time": expected.isoformat(),
        "status_callback_url": url,
        "subject_request_id": subject_request_id,
        "request_status": str(status),
        "api_version": API_VERSION,
        "results_url": None,
    }


def as_bytes(document: dict[str, Any]) -> bytes:
    """The bytes that are signed and sent."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
