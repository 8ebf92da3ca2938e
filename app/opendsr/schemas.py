"""OpenDSR's documents, and what of ours stands in their `extensions`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.config import bounds
from app.opendsr.forms import Status
from app.requests.schemas import EXAMPLE as REQUEST
from app.requests.schemas import Item, ModelName, Moment, Reference
from app.webhooks.schemas import Address

BOUNDS = bounds()
CALLBACKS_MOST, IDENTITIES_MOST = 5, 100

def _text(value: Any) -> Any:
    """`value`, or ValueError for a number, which would be taken for seconds of the year 1970."""
    if not isinstance(value, str):
        raise ValueError("give a date and time, as in 2026-11-26T09:00:00Z")
    return value


Submitted = Annotated[Moment, BeforeValidator(_text)]
Short = Annotated[str, StringConstraints(max_length=320)]

EXAMPLE: dict[str, Any] = {
    "regulation": "gdpr",
    "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
    "subject_request_type": "erasure",
    "submitted_time": "2026-11-26T09:00:00Z",
    "subject_identities": [
        {"identity_type": "controller_customer_id", "identity_value": "4711", "identity_format": "raw"}
    ],
    "api_version": "2.0",
    "status_callback_urls": ["https://privacy.example.com/opendsr/callbacks"],
    "extensions": {"grail.example.com": {name: REQUEST[name] for name in ("served_model", "forget", "retain")}},
}


class Identity(BaseModel):
    """Who it is about. Looked at for its form only and not stored: texts are named by our extension."""

    model_config = ConfigDict(hide_input_in_errors=True)

    identity_type: Short
    identity_value: Annotated[str, StringConstraints(max_length=2000)] = Field(repr=False)
    identity_format: Literal["raw", "sha1", "md5", "sha256"]


class DataSubjectRequest(BaseModel):
    """A request of a data subject, as a controller hands it on."""

    model_config = ConfigDict(hide_input_in_errors=True, json_schema_extra={"examples": [EXAMPLE]})

    regulation: Literal["gdpr", "ccpa"]
    subject_request_id: uuid.UUID
    subject_request_type: Literal["erasure", "access", "portability"]
    submitted_time: Submitted
    subject_identities: list[Identity] = Field(default_factory=list, max_length=IDENTITIES_MOST, repr=False)
    api_version: Short | None = None
    status_callback_urls: list[Address] = Field(default_factory=list, max_length=CALLBACKS_MOST, repr=False)
    extensions: dict[str, dict[str, Any]] = Field(
        default_factory=dict, repr=False, description="ours stands under the domain that /opendsr/discovery names"
    )


class Extension(BaseModel):
    """Which texts of which served model: what OpenDSR has no words for."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    served_model: ModelName
    forget: list[Item] = Field(min_length=1, max_length=BOUNDS.max_items_per_request, repr=False)
    retain: list[Item] = Field(default_factory=list, max_length=BOUNDS.max_items_per_request, repr=False)
    subject_reference: Reference | None = Field(None, repr=False)
    legal_basis: Reference | None = None


class SupportedIdentity(BaseModel):
    """A kind of identity."""

    identity_type: str
    identity_format: str


class Discovery(BaseModel):
    """What this processor takes."""

    api_version: str
    supported_identities: list[SupportedIdentity]
    supported_subject_request_types: list[str]
    processor_certificate: str = Field(description="where what verifies our signatures is found")
    processor_domain: str = Field(description="the name that our extension stands under")


class Receipt(BaseModel):
    """A request was taken."""

    controller_id: str
    expected_completion_time: datetime
    received_time: datetime
    encoded_request: str = Field(repr=False, description="Base64 of the body as it came: not to be stored")
    subject_request_id: uuid.UUID
    api_version: str


class StatusView(BaseModel):
    """Where a request stands."""

    controller_id: str
    expected_completion_time: datetime
    subject_request_id: uuid.UUID
    request_status: Status
    api_version: str
    results_url: str | None
    extensions: dict[str, dict[str, Any]] = Field(description="its id, state and address in our own API")


class Cancellation(BaseModel):
    """A request was cancelled."""

    controller_id: str
    received_time: datetime
    subject_request_id: uuid.UUID
    api_version: str
