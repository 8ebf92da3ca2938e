"""What can be wrong with a webhook beside its address."""

from __future__ import annotations

from app.errors import Conflict


class TooManyWebhooks(Conflict):
    """The bound of a key."""

    type = "too-many-webhooks"
    title = "This key has as many webhooks as it may"
    mend = "Remove one, or leave `kinds` of another wider."


class TooManyCallbacks(Conflict):
    """The bound of a key, of callbacks of single requests."""

    type = "too-many-callbacks"
    title = "This key has as many open callback addresses as it may"
    mend = (
        "Wait until requests end: their callbacks close once the last word was told (`grail webhooks list` shows those "
        "that are open). Or send the request without `status_callback_urls` and ask for its status, or have the "
        "operator raise GRAIL_CALLBACKS_PER_KEY."
    )

    def __init__(self, there: int = 0, more: int = 0, limit: int = 0) -> None:
        super().__init__(f"{there} are open, {more} more were asked for, {limit} are allowed", open=there, limit=limit)


class WebhookDisabled(Conflict):
    """Nothing is sent to it."""

    type = "webhook-disabled"
    title = "The webhook is disabled"
    mend = "Mend its receiver, then POST /v1/webhooks/{id}/enable."


class StillPending(Conflict):
    """A delivery that is under way."""

    type = "still-pending"
    title = "The delivery has not ended yet"
    mend = "It is tried again by itself at its `next_at`."
