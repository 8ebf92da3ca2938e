"""What can be wrong with a request, beyond its form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from app.errors import BadRequest, Conflict, Forbidden, Unprocessable
from app.lifecycle import RequestState

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
