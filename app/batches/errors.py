"""Why no batch can be made."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.errors import Conflict, Unprocessable
from grail.config import GENERAL


class JobAtWork(Conflict):
    """One job per served model at a time."""

    type = "job-at-work"
    title = "A job of this served model is queued or at work"
    mend = "Wait for its end: the next one starts from what it publishes. What is pending meanwhile is batched then."

    def __init__(self, model: str = "", job_id: uuid.UUID | None = None, state: str = "running") -> None:
        super().__init__(f"job {job_id} of {model} is {state}", job_id=str(job_id), state=state)


class BreakerOpen(Conflict):
    """The model is left alone for a while."""

    type = "breaker-open"
    title = "The served model's last jobs failed for no fault of their requests"
    mend = (
        "Mend what `reason` names, then POST /v1/models/{name}/breaker/close (`grail models close-breaker`). Left "
        "alone it lets one job try at the time named. Requests are taken meanwhile, and stay queued."
    )

    def __init__(
        self, model: str = "", tries_again_at: datetime | None = None, reason: Mapping[str, Any] | None = None
    ) -> None:
        at = None if tries_again_at is None else tries_again_at.isoformat(timespec="seconds")
        kind = (reason or {}).get("type", "unexpected")
        super().__init__(
            f"the breaker of {model} is open, last because of {kind}; one job may try at {at}",
            tries_again_at=at,
            reason=dict(reason or {}),
        )


class NothingPending(Conflict):
    """No request to batch."""

    type = "nothing-pending"
    title = "No request of this served model is pending"
    mend = "Make one with POST /v1/requests; those that need attention are queued again with `include_attention`."

    def __init__(self, model: str = "") -> None:
        super().__init__(f"no request of {model} is received or queued")


class NoActiveAdapter(Conflict):
    """Nothing to change."""

    type = "no-active-adapter"
    title = "The served model has no active adapter version"
    mend = "Register the model with an adapter, or activate a version of it."

    def __init__(self, model: str = "") -> None:
        super().__init__(f"{model} has no active adapter version to start from")


class NoRetainData(Unprocessable):
    """Unlearning without anything to keep destroys the adapter."""

    type = "no-retain-data"
    title = "There is no retain data for this batch"
    mend = (
        "Add some: PUT /v1/models/{name}/retain-set, or POST /v1/requests with `retain` items in one of the "
        "domains named; the requests stay queued until then."
    )
    mend_general = (
        "Add some: PUT /v1/models/{name}/retain-set with items of the domain general, or choose a method that retains "
        "what stands beside the requests; they stay queued until then."
    )

    def __init__(self, model: str = "", domains: Sequence[str] = (), method: str = "") -> None:
        if GENERAL in domains:
            super().__init__(
                f"the method {method} retains general data, and the standing retain set of {model} has no item of the "
                f"domain {GENERAL}",
                mend=self.mend_general,
                domains=list(domains),
            )
            return
        super().__init__(
            f"neither the pending requests of {model} nor its standing retain set have a retain item "
            f"in {' or '.join(domains)}",
            domains=list(domains),
        )
