"""How long the texts of a request are kept once it has ended: an erased work for its counter-notice, facts about
persons so that later versions are measured with them too, and what came to nothing while somebody may ask why.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.requests import repository
from app.served_models.schemas import Policy
from app.tables import Request, RequestDomain, RequestKind


def ended(session: Session, request: Request, now: datetime) -> None:
    """Set when the texts of a request go that has just ended. What a reinstatement taught again is kept: later jobs are
    held to it."""
    if request.kind is RequestKind.ERASE or request.state in repository.WITHOUT_EFFECT:
        request.content_until = until(session, request, now)


def until(session: Session, request: Request, now: datetime) -> datetime:
    """When the texts of an ended request go, if their time begins now."""
    model = repository.lock_model(session, request.served_model_id)
    assert model is not None  # noqa: S101 - served models are never deleted
    policy = Policy.model_validate(model.policy)
    if request.state in repository.WITHOUT_EFFECT:
        return now + timedelta(days=policy.ended_content_days)
    by_domain = {
        RequestDomain.COPYRIGHT: policy.counter_notice_days,
        RequestDomain.PRIVACY: policy.privacy_content_days,
    }
    return now + timedelta(days=by_domain[request.domain])
