"""Rules of the facade: a data subject's request becomes a request of ours under the controller's id.

`subject_request_id` is kept as the request's `client_reference`; its identities are not kept, since nothing could be
found by them.
"""

from __future__ import annotations

import base64
import uuid
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.auth import Principal
from app.config import Settings
from app.errors import NotFound, Unprocessable, problems_of
from app.opendsr import repository
from app.opendsr.errors import IdTaken, NoExtension, NotErasure
from app.opendsr.forms import API_VERSION, STATUS, domain_of
from app.opendsr.schemas import (
    Cancellation,
    DataSubjectRequest,
    Discovery,
    Extension,
    Receipt,
    StatusView,
    SupportedIdentity,
)
from app.requests import service as requests
from app.requests.schemas import RequestCreate
from app.tables import Regulation, Request, RequestDomain
from app.webhooks import messages
from app.webhooks import service as webhooks
from app.webhooks.repository import hold_key

ERASURE = "erasure"


def discovery(settings: Settings) -> Discovery:
    """What this processor takes."""
    base = settings.public_url.rstrip("/")
    return Discovery(
        api_version=API_VERSION,
        supported_identities=[SupportedIdentity(identity_type="controller_customer_id", identity_format="raw")],
        supported_subject_request_types=[ERASURE],
        processor_certificate=settings.opendsr_certificate_url or f"{base}/opendsr/key",
        processor_domain=domain_of(settings.public_url),
    )


def submit(
    session: Session, asked: DataSubjectRequest, body: bytes, who: Principal, now: datetime, settings: Settings
) -> Receipt:
    """Take an erasure. Raises NotErasure, NoExtension, IdTaken, AddressRefused, TooManyCallbacks and what
    requests.submit raises."""
    if asked.subject_request_type != ERASURE:
        raise NotErasure(f"subject_request_type is {asked.subject_request_type}")
    ours = _extension(asked, domain_of(settings.public_url))
    webhooks.check_addresses(session, asked.status_callback_urls, settings)
    hold_key(session, who.key_id)
    name = str(asked.subject_request_id)
    if repository.named(session, who.key_id, name) is not None:
        raise IdTaken
    payload = RequestCreate(
        domain=RequestDomain.PRIVACY, client_reference=name, regulation=Regulation(asked.regulation), **dict(ours)
    )
    urls = dict.fromkeys(asked.status_callback_urls)
    webhooks.room_for_callbacks(session, who.key_id, len(urls), settings)
    made = requests.submit(session, payload, who, now, due_days=settings.request_due_days)
    for url in urls:
        webhooks.add(session, url, who, now, kinds=[], form=messages.OPENDSR, request_id=made.id)
    return Receipt(
        controller_id=str(who.key_id),
        expected_completion_time=made.due_at,
        received_time=made.received_at,
        encoded_request=base64.b64encode(body).decode(),
        subject_request_id=asked.subject_request_id,
        api_version=API_VERSION,
    )


def status(session: Session, subject_request_id: uuid.UUID, who: Principal, settings: Settings) -> StatusView:
    """Where a request stands. Raises NotFound, also for somebody else's."""
    request = _visible(session, subject_request_id, who)
    address = f"{settings.public_url.rstrip('/')}/v1/requests/{request.id}"
    ours = {"request_id": str(request.id), "state": str(request.state), "request": address}
    return StatusView(
        controller_id=str(who.key_id),
        expected_completion_time=request.due_at,
        subject_request_id=subject_request_id,
        request_status=STATUS[request.state],
        api_version=API_VERSION,
        results_url=None,
        extensions={domain_of(settings.public_url): ours},
    )


def cancel(session: Session, subject_request_id: uuid.UUID, who: Principal, now: datetime) -> Cancellation:
    """Withdraw a request that no job works on yet. Raises NotFound, NotWithdrawable."""
    request = _visible(session, subject_request_id, who)
    requests.withdraw(session, request.id, who, now)
    return Cancellation(
        controller_id=str(who.key_id), received_time=now, subject_request_id=subject_request_id, api_version=API_VERSION
    )


def _extension(asked: DataSubjectRequest, domain: str) -> Extension:
    """What of ours is in the request. Raises NoExtension, and Unprocessable with what is wrong in it."""
    if domain not in asked.extensions:
        raise NoExtension(f"there is no extension under {domain}")
    try:
        return Extension.model_validate(asked.extensions[domain])
    except ValidationError as error:
        faults = problems_of(error.errors(include_input=False, include_url=False))
        raise Unprocessable(f"{faults[0]['field']}: {faults[0]['problem']}", errors=faults) from None


def _visible(session: Session, subject_request_id: uuid.UUID, who: Principal) -> Request:
    request = repository.named(session, who.key_id, str(subject_request_id))
    if request is None:
        raise NotFound("there is no request with this subject_request_id of this key")
    return request
