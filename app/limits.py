"""Pure ASGI middleware: bodies are bounded in size and time while they stream in, answers carry an id and safe
headers."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, ServiceError, TooLarge, TooSlow, UnsupportedMediaType, answer

SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


BODY_DIGEST = "grail.body_digest"
"""Where a call's scope has the SHA-256 of its body, once that was read."""
DIGITS = 18
"""Of a length that is looked at as a number."""


class EncodedBody(UnsupportedMediaType):
    """415: what is small on the wire may be endless once it is unpacked, so nothing is."""

    type, title = "encoded-body", "The body must not be compressed"
    mend = "Send it as it is, without Content-Encoding."


class _Refused(Exception):
    """The body grew past a limit while it was read."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one body."""

    bytes: int
    seconds: float


class BodyLimit:
    """Refuses bodies over their bounds: in size by Content-Length at once and otherwise while counting, in time while
    they are waited for; and bodies that are not JSON. Paths in `files` take files: bodies with bounds of their own,
    whose kind their endpoint looks at."""

    def __init__(self, app: ASGIApp, bounds: Bounds, files: Mapping[str, Bounds] | None = None) -> None:
        self.app, self.bounds, self.files = app, bounds, dict(files or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bounds = self.files.get(scope["path"], self.bounds)
        refusal = self._refusal(scope, bounds)
        if refusal is not None:
            await answer(refusal)(scope, receive, send)
            return
        body, started = _Body(scope, receive, bounds), False

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if body.refusal is not None and not started:  # whoever read the body answers our exception in its own way
                raise _Refused
            started = True
            await send(message)

        try:
            await self.app(scope, body.receive, unless_refused)
        except _Refused:
            if started or body.refusal is None:
                raise
            await answer(body.refusal)(scope, receive, send)

    def _refusal(self, scope: Scope, bounds: Bounds) -> ServiceError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0").strip()
        if not length.isdigit():
            return BadRequest("Content-Length is no number of bytes")
        if len(length) > DIGITS or int(length) > bounds.bytes:
            return _too_large(bounds.bytes)
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            return EncodedBody("the body is compressed")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        is_file = scope["path"] in self.files
        if has_body(scope) and scope["method"] in {"POST", "PUT", "PATCH"} and not is_file and not _is_json(kind):
            return UnsupportedMediaType("the body has no JSON content type")
        return None


class _Body:
    """A body as it comes in; `refusal` once it is over a bound, its SHA-256 in the scope once it is whole. What comes
    after it, a caller who hangs up, may take its time."""

    def __init__(self, scope: Scope, receive: Receive, bounds: Bounds) -> None:
        self._scope, self._receive, self._bounds = scope, receive, bounds
        self._seen, self._ends, self._whole = 0, 0.0, False
        self._digest = hashlib.sha256()
        self.refusal: ServiceError | None = None

    async def receive(self) -> Message:
        """The next message. Raises _Refused."""
        if self._whole:
            return await self._receive()
        self._ends = self._ends or asyncio.get_running_loop().time() + self._bounds.seconds
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            self.refusal = TooSlow(f"the body was not there after {self._bounds.seconds:g} s")
            raise _Refused from None
        part = message.get("body", b"")
        self._seen += len(part)
        if self._seen > self._bounds.bytes:
            self.refusal = _too_large(self._bounds.bytes)
            raise _Refused
        self._digest.update(part)
        self._whole = not message.get("more_body", False)
        if self._whole:
            self._scope[BODY_DIGEST] = self._digest.digest()
        return message


class HangUp:
    """Ends the connection after an answer that was given before its body had come: else the rest would have to be read
    for the sake of the next call, however slowly it comes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            await self.app(scope, receive, send)
            return
        more = True

        async def watched() -> Message:
            nonlocal more
            message = await receive()
            more = bool(message.get("more_body", False))
            return message

        async def closing(message: Message) -> None:
            if more and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        await self.app(scope, watched, closing)


def has_body(scope: Scope) -> bool:
    """Whether a call has said that it brings a body."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b" 0") != b""


def _too_large(max_bytes: int) -> ServiceError:
    return TooLarge(f"the body has more than {max_bytes} bytes", limit_bytes=max_bytes)


def _is_json(kind: bytes) -> bool:
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


class RequestIds:
    """Gives each exchange an id, in the answer and in every log line made for it, and adds headers that are safe."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(exchange=exchange)

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[Any] = list(message.get("headers", []))
                names = {name.lower() for name, _ in given}
                given += [(name, value) for name, value in SAFE_HEADERS if name not in names]
                message["headers"] = [*given, (b"x-request-id", exchange.encode())]
            await send(message)

        await self.app(scope, receive, tagged)
