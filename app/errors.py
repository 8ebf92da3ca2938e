"""One base of errors with a status, and handlers that answer RFC 9457 problem documents.

A problem says what is wrong (`detail`) and how to mend it (`mend`). It never repeats what the caller sent.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"
DETAIL_MAX_CHARS = 2000
FIELD = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""Names of fields that an answer may repeat; anything else that stands in the place of a name is the caller's text."""


def _writable(text: str) -> str:
    """`text` as UTF-8 can hold it, and no longer than anybody reads: names in files may be anything."""
    return text[:DETAIL_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")


class ServiceError(Exception):
    """Base of what the service says when it can not do what was asked. `type` is a slug, stable for programs."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed"
    mend: ClassVar[str] = "Try again later; if it stays, give the operator the id of this answer."
    headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self, detail: str | None = None, *, mend: str | None = None, retry_after: int | None = None, **extra: Any
    ) -> None:
        self.detail = _writable(detail or self.title)
        self.how_to_mend = mend or self.mend
        self.extra, self.retry_after = extra, retry_after
        super().__init__(self.detail)

    def problem(self) -> dict[str, Any]:
        """The problem document."""
        return {
            "type": f"urn:grail:problem:{self.type}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "mend": self.how_to_mend,
            **self.extra,
        }


class BadRequest(ServiceError):
    """400."""

    status, type, title = 400, "bad-request", "The request can not be read"
    mend = "Send what the OpenAPI document at /openapi.json describes."


class Unauthorised(ServiceError):
    """401."""

    status, type, title = 401, "unauthorised", "A valid API key is needed"
    mend = "Send `Authorization: Bearer <key>`; keys are made with `grail keys create`."
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Bearer realm="grail"'}


class Forbidden(ServiceError):
    """403."""

    status, type, title = 403, "forbidden", "This key's role may not do that"
    mend = "Use a key with one of the roles named, or ask an administrator for one."


class NotFound(ServiceError):
    """404."""

    status, type, title = 404, "not-found", "There is no such thing, or this key may not see it"
    mend = "Check the id or name; lists show what this key may see."


class MethodNotAllowed(ServiceError):
    """405."""

    status, type, title = 405, "method-not-allowed", "This address does not take that method"
    mend = "See /openapi.json for the methods of each address."


class TooSlow(ServiceError):
    """408."""

    status, type, title = 408, "body-too-slow", "The body did not arrive in time"
    mend = "Nothing was stored. Send it again over a better line, or in smaller parts."


class Conflict(ServiceError):
    """409."""

    status, type, title = 409, "conflict", "The present state does not allow that"
    mend = "Read the resource again and decide anew."


class Gone(ServiceError):
    """410."""

    status, type, title = 410, "gone", "It was there and is not kept any more"
    mend = "Read what is there now."


class TooLarge(ServiceError):
    """413."""

    status, type, title = 413, "too-large", "The body is larger than allowed"
    mend = "Split it into several requests."


class UnsupportedMediaType(ServiceError):
    """415."""

    status, type, title = 415, "unsupported-media-type", "The body must be JSON"
    mend = "Send `Content-Type: application/json`."


class Unprocessable(ServiceError):
    """422."""

    status, type, title = 422, "unprocessable", "The request makes no sense as it is"
    mend = "Correct what `detail` and `errors` name."


class Unavailable(ServiceError):
    """503."""

    status, type, title = 503, "unavailable", "A part of the service is away"
    mend = "Nothing was stored. Try again after the seconds in Retry-After."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class Overloaded(ServiceError):
    """503 at once instead of an answer after long."""

    status, type, title = 503, "overloaded", "The service has as much at work as it can"
    mend = "Nothing was read or stored. Send the same again after the seconds in Retry-After, and less at a time."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "2"}


class StorageFull(ServiceError):
    """507."""

    status, type, title = 507, "storage-full", "There is no room left on the disk"
    mend = "Free space under the data directory, then try again; nothing half-written was left behind."


class Problem(BaseModel):
    """An error as RFC 9457 has it, with one field more: how to mend it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [NotFound("there is no request with this id").problem()]},
    )

    type: str
    title: str
    status: int
    detail: str
    mend: str


def problem_responses(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: one entry a status, with every kind's title."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        known = found.get(kind.status)
        example = kind().problem()
        if known is None:
            found[kind.status] = {
                "description": kind.title,
                "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
            }
        elif kind.title not in known["description"]:
            known["description"] += f". Or: {kind.title}"
    return found


def answer(error: ServiceError) -> JSONResponse:
    """The HTTP answer of an error."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse(error.problem(), status_code=error.status, media_type=PROBLEM, headers=headers)


BY_STATUS: dict[int, type[ServiceError]] = {
    kind.status: kind for kind in (BadRequest, Unauthorised, NotFound, MethodNotAllowed, UnsupportedMediaType, TooLarge)
}


def field_name(place: tuple[int | str, ...]) -> str:
    """Where in a body something is wrong. Names that no field of ours could have are not repeated."""
    parts = [part for part in place if part != "body"]
    shown = (str(part) if isinstance(part, int) or FIELD.fullmatch(part) else "(unknown name)" for part in parts)
    return ".".join(shown) or "body"


def problems_of(errors: Sequence[Any]) -> list[dict[str, str]]:
    """What a validation found, field by field, in plain words: our own sentences without the validator's preface."""
    return [
        {"field": field_name(entry["loc"]), "problem": entry["msg"].removeprefix("Value error, ")}
        for entry in errors[:50]
    ]


def from_validation(error: RequestValidationError) -> ServiceError:
    """What was wrong, field by field, without the values that were sent. Malformed JSON is a 400."""
    errors = error.errors()
    if any(entry["type"] == "json_invalid" for entry in errors):
        return BadRequest("the body is not well-formed JSON")
    fields = problems_of(errors)
    first = fields[0]
    return Unprocessable(f"{first['field']}: {first['problem']}", errors=fields)


def install_handlers(app: FastAPI) -> None:
    """Every error of the application becomes a problem document."""

    @app.exception_handler(ServiceError)
    def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(from_validation(error))

    @app.exception_handler(HTTPException)
    def http_error(_: Request, error: HTTPException) -> JSONResponse:
        kind = BY_STATUS.get(error.status_code)
        if kind is not None:
            return JSONResponse(
                kind().problem(), status_code=kind.status, media_type=PROBLEM, headers=dict(error.headers or {})
            )
        title = HTTPStatus(error.status_code).phrase
        document = {**ServiceError(title).problem(), "status": error.status_code, "title": title, "type": "about:blank"}
        return JSONResponse(document, status_code=error.status_code, media_type=PROBLEM)

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def database_away(_: Request, error: Exception) -> JSONResponse:
        log.warning("database_away", kind=type(error).__name__)
        return answer(Unavailable("the database does not answer"))


class LastBorder:
    """Where an unexpected error ends: the answer and the log carry an id and the kind of error, never its text.

    Middleware and not an exception handler, since Starlette raises what those handled once more, and the server then
    logs it with its text and traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noticed)
        except Exception as error:  # the border: see above
            if scope["type"] == "lifespan" and isinstance(error, ServiceError):
                log.error("can_not_start", kind=error.type, detail=error.detail, mend=error.how_to_mend)
                raise
            incident = str(uuid.uuid4())
            log.error("unexpected_error", incident=incident, kind=type(error).__name__, where=line_of(error))
            known = ServiceError("an unexpected error was noted under this id", incident=incident)
            if started or scope["type"] != "http":
                raise known from None  # the server has to break off what it began to send
            await answer(known)(scope, receive, send)


def line_of(error: BaseException) -> str:
    """File and line at which an error arose: what a log may say of it, since its text may hold a person's words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
