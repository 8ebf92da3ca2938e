"""What can be wrong with a request, beyond its form."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from app.errors import BadRequest, Conflict, Forbidden, Unprocessable
from app.lifecycle import RequestEvent, RequestState
from app.requests.clocks import NoExtension

FAULTS_SHOWN = 20
"""Faults of one kind that a problem document lists."""


class UnknownServedModel(Unprocessable):
    """No served model has that name."""

    type = "unknown-served-model"
    title = "There is no served model of that name"
    mend = "Name one of `known`; an operator registers others with POST /v1/models."

    def __init__(self, name: str = "", known: Sequence[str] = ()) -> None:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = f"known: {', '.join(known)}" if known else "none is registered yet"
        super().__init__(f"no served model is called {name!r}; {listed}{hint}", known=list(known))


class NothingAsked(Unprocessable):
    """Neither forget nor retain items."""

    type = "nothing-asked"
    title = "The request has neither forget nor retain items"
    mend = "Put what shall go into `forget`, what shall stay into `retain`, or both."


class _Faulty(Unprocessable):
    """Faults at places."""

    def __init__(self, faults: Iterable[dict[str, Any]] = (), **extra: Any) -> None:
        listed = list(faults)
        more = f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
        first = f"{listed[0]['field']}: {listed[0]['problem']}{more}" if listed else None
        super().__init__(first, errors=listed[:FAULTS_SHOWN], **extra)


class TextTooLong(_Faulty):
    """A text does not fit the model's context."""

    type = "text-too-long"
    title = "A text is longer than the model's context"
    mend = "Shorten it by the tokens named, or split it into several items."


class Contradiction(_Faulty):
    """The same content is to go and to stay."""

    type = "forget-and-retain"
    title = "The same item is to be forgotten and to be kept"
    mend = "Take one of each pair in `pairs` out; case, spaces and Unicode forms make no difference."


class DuplicateItem(_Faulty):
    """The same item stands twice."""

    type = "duplicate-item"
    title = "The same item stands twice in the request"
    mend = "Send each item once; the same question in other words is a probe of kind `paraphrase`."


class FactNotInText(_Faulty):
    """A fact that its own text does not hold."""

    type = "fact-not-in-text"
    title = "A fact does not occur in its completion or passage"
    mend = "Copy each fact from the completion or passage that gives it away."


class BadCursor(BadRequest):
    """A cursor that no page of ours gave out."""

    type = "bad-cursor"
    title = "The cursor is none of ours"
    mend = "Take `next_cursor` of the page before as it is, or leave `cursor` away to start with the newest."


class WrongState(Conflict):
    """What was asked is not possible in the request's state."""

    type = "wrong-state"
    title = "The request's state does not allow that"

    def __init__(
        self, state: RequestState = RequestState.PUBLISHED, event: RequestEvent = RequestEvent.HOLD
    ) -> None:
        done, when = DEEDS[event]
        super().__init__(f"a request that is {state} can not be {done}", mend=when, state=str(state))


DEEDS = {
    RequestEvent.HOLD: (
        "put on hold",
        "Possible until a job works on it. Is one at work, ask an operator to cancel it, then put the request on hold; "
        "what awaits approval an officer refuses with POST /v1/jobs/{id}/refuse.",
    ),
    RequestEvent.RESUME: ("resumed", "Only what is on hold is resumed: nothing is left to do."),
    RequestEvent.REFUSE: (
        "refused",
        "Possible until a job works on it. Is one at work, ask an operator to cancel it, then refuse the request; what "
        "awaits approval is refused with POST /v1/jobs/{id}/refuse first.",
    ),
    RequestEvent.VALIDATE: ("validated", "Only a notice is validated; resume first what is on hold."),
    RequestEvent.COUNTER: ("countered", "A counter-notice is lodged once the erasure is published."),
    RequestEvent.DISMISS: ("dismissed", "Only a request that is countered has a counter-notice to dismiss."),
    RequestEvent.REINSTATE: ("reinstated", "Lodge a counter-notice with POST /v1/requests/{id}/counter first."),
}
"""What a person does to a request, and when that is possible."""


class NotExtendable(Conflict):
    """The due date stays."""

    type = "not-extendable"
    title = "The due date can not be extended"

    def __init__(self, why: NoExtension = NoExtension.TOO_LATE) -> None:
        detail, mend = NO_EXTENSION[why]
        super().__init__(detail, mend=mend, reason=str(why))


NO_EXTENSION = {
    NoExtension.DONE: ("the request is done: its clock has stopped", "Nothing is owed any more."),
    NoExtension.TWICE: ("the due date was extended before", "It is extended once only: serve the request by then."),
    NoExtension.NOT_FORESEEN: (
        "the request's regulation knows no extension",
        "Only gdpr and ccpa do: serve the request by its due date.",
    ),
    NoExtension.TOO_LATE: (
        "the first period is over: an extension has to be given inside of it",
        "Serve the request at once: `grail jobs run MODEL`.",
    ),
}


class LegalHoldForbidden(Forbidden):
    """Only officers decide about legal holds."""

    type = "legal-hold-forbidden"
    title = "Only an officer may set, change or end a legal hold"
    mend = "Use an officer's key, or hold the request for `identity` or `scope`."


class NotCounterable(Conflict):
    """Counter-notices are for erased works."""

    type = "not-counterable"
    title = "Only a request to erase a work can be countered"
    mend = "A counter-notice is lodged against a published request of the domain copyright that had forget items."


class BeingReinstated(Conflict):
    """A request to reinstate it is open."""

    type = "being-reinstated"
    title = "A request to reinstate this one is open"
    mend = "Wait for its end, or withdraw it with DELETE /v1/requests/{reinstatement_id} first."

    def __init__(self, reinstatement_id: uuid.UUID | None = None) -> None:
        super().__init__(
            f"request {reinstatement_id} is to reinstate this one and is not done",
            reinstatement_id=str(reinstatement_id),
        )


class ContentGone(Conflict):
    """What was erased is not kept any more."""

    type = "content-gone"
    title = "The erased content is not kept any more"
    mend = "Send it anew as `items`: the same prompts and completions, or passages, as were erased."


class ErasedByAnother(Conflict):
    """Erasure wins over reinstatement."""

    type = "erased-by-another"
    title = "Another request that is in force erases the same content"
    mend = "It stays erased as long as that request does: counter that one too, or have it withdrawn if it is open."


class NotWhatWasErased(_Faulty):
    """Only what was erased is taught again."""

    type = "not-what-was-erased"
    title = "The items are not those that were erased"
    mend = "Send every item that was erased, as it was, and no others; case, spaces and Unicode forms do not count."


class NotWithdrawable(Conflict):
    """The request is past the point of withdrawal."""

    type = "not-withdrawable"
    title = "The request can not be withdrawn any more"

    def __init__(self, state: RequestState = RequestState.RUNNING) -> None:
        way_out = WAYS_OUT.get(state, "It is final: nothing is left to do.")
        super().__init__(f"the request is {state}", mend=way_out, state=str(state))


WAYS_OUT = {
    RequestState.RUNNING: "Its job is at work: wait for its end, or ask an operator to cancel the job.",
    RequestState.EVALUATED: "Its job is at its end: read the request again in a moment.",
    RequestState.AWAITING_APPROVAL: "An officer decides about it: ask them to refuse.",
    RequestState.PUBLISHED: "What was erased stays erased; make a new request to teach or to protect.",
    RequestState.COUNTERED: "An officer decides about the counter-notice: ask them to dismiss it or to reinstate.",
    RequestState.STANDING: "An operator takes it out of the retain set with PUT /v1/models/{name}/retain-set.",
}


class ContentsForbidden(Forbidden):
    """Texts are for the owner and the officer."""

    type = "contents-forbidden"
    title = "Only the owner and an officer may read a request's texts"
    mend = "Leave `include=items` away, or use the owner's or an officer's key."


class WithdrawalForbidden(Forbidden):
    """Only the owner and the officer withdraw."""

    type = "withdrawal-forbidden"
    title = "Only the owner and an officer may withdraw a request"
    mend = "Use the owner's or an officer's key."
