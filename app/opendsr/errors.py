"""Errors in the specification's form, inside of our own: a problem document with a member `error`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.errors import BadRequest, ServiceError, from_validation

THEIRS = frozenset({400, 409, 413, 415, 422})
"""Whatever is wrong with what was sent is a 400 in OpenDSR."""


class OpenDsrRefused(BadRequest):
    """A request that this processor does not take."""

    type = "opendsr-refused"
    title = "The request is none that this processor takes"
    mend = "See /opendsr/discovery, and docs/api.md for the extension."


class NotErasure(BadRequest):
    """Access and portability."""

    type = "only-erasure"
    title = "This processor serves erasure only"
    mend = "A model is no store that texts could be read out of: ask those who hold the data."


class IdTaken(BadRequest):
    """The id was used before."""

    type = "subject-request-id-taken"
    title = "There is a request with this subject_request_id already"
    mend = "GET /opendsr/requests/{subject_request_id} says how it stands."


class NoExtension(BadRequest):
    """Nobody says what is to be forgotten."""

    type = "extension-missing"
    title = "The request does not say which texts of which served model"
    mend = "Name `served_model` and `forget` in `extensions`, under the domain that /opendsr/discovery answers with."


class OpenDsrRoute(APIRoute):
    """A route whose errors have OpenDSR's form too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise in_their_form(from_validation(error)) from None
            except ServiceError as error:
                raise in_their_form(error) from None

        return translated


def in_their_form(error: ServiceError) -> ServiceError:
    """The error with the specification's object in it; a fault of the caller's becomes a 400."""
    found = error
    if error.status in THEIRS and not isinstance(error, BadRequest):
        found = OpenDsrRefused(error.detail, mend=error.how_to_mend, **error.extra)
    told = {"domain": "Validation" if found.status in THEIRS else "Processing", "reason": error.type}
    found.extra["error"] = {
        "code": found.status, "message": error.detail, "errors": [{**told, "message": error.detail}],
    }  # fmt: skip
    return found
