"""What can be wrong with a webhook beside its address."""

from __future__ import annotations

from app.errors import Conflict


class TooManyWebhooks(Conflict):
    """The bound of a key."""

    type = "too-many-webhooks"
    title = "This key has as many webhooks as it may"
    mend = "Remove one, or leave `kinds` of another wider."


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
