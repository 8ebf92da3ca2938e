"""Pure ASGI middleware: bodies are bounded while they stream in, answers carry an id and safe headers."""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError, TooLarge, UnsupportedMediaType, answer

SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class _Exceeded(Exception):
    """The body grew past the limit while it was read."""


class BodyLimit:
    """Refuses bodies over `max_bytes`, by Content-Length at once and otherwise while counting; and bodies that are not
    JSON."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer(refusal)(scope, receive, send)
            return
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise _Exceeded
            return message

        async def unless_exceeded(message: Message) -> None:
            nonlocal started
            if seen > self.max_bytes and not started:  # whoever read the body answers our exception in its own way
                raise _Exceeded
            started = True
            await send(message)

        try:
            await self.app(scope, counted, unless_exceeded)
        except _Exceeded:
            if started:
                raise
            await answer(self._too_large())(scope, receive, send)

    def _too_large(self) -> ServiceError:
        return TooLarge(f"the body has more than {self.max_bytes} bytes", limit_bytes=self.max_bytes)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            return self._too_large()
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        has_body = b"transfer-encoding" in headers or (length.isdigit() and int(length) > 0)
        if has_body and scope["method"] in {"POST", "PUT", "PATCH"} and not _is_json(kind):
            return UnsupportedMediaType("the body has no JSON content type")
        return None


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
