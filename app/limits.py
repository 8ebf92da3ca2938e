"""Pure ASGI middleware: bodies are bounded while they stream in, answers carry an id and safe headers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError, TooLarge, UnsupportedMediaType, answer

SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class EncodedBody(UnsupportedMediaType):
    """415: what is small on the wire may be endless once it is unpacked, so nothing is."""

    type, title = "encoded-body", "The body must not be compressed"
    mend = "Send it as it is, without Content-Encoding."


class _Exceeded(Exception):
    """The body grew past the limit while it was read."""


class BodyLimit:
    """Refuses bodies over `max_bytes`, by Content-Length at once and otherwise while counting; and bodies that are not
    JSON. Paths in `file_bytes` take files: bodies with a bound of their own, whose kind their endpoint looks at."""

    def __init__(self, app: ASGIApp, max_bytes: int, file_bytes: Mapping[str, int] | None = None) -> None:
        self.app, self.max_bytes, self.file_bytes = app, max_bytes, dict(file_bytes or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.file_bytes.get(scope["path"], self.max_bytes)
        refusal = self._refusal(scope, max_bytes)
        if refusal is not None:
            await answer(refusal)(scope, receive, send)
            return
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > max_bytes:
                raise _Exceeded
            return message

        async def unless_exceeded(message: Message) -> None:
            nonlocal started
            if seen > max_bytes and not started:  # whoever read the body answers our exception in its own way
                raise _Exceeded
            started = True
            await send(message)

        try:
            await self.app(scope, counted, unless_exceeded)
        except _Exceeded:
            if started:
                raise
            await answer(_too_large(max_bytes))(scope, receive, send)

    def _refusal(self, scope: Scope, max_bytes: int) -> ServiceError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > max_bytes:
            return _too_large(max_bytes)
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            return EncodedBody("the body is compressed")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        has_body = b"transfer-encoding" in headers or (length.isdigit() and int(length) > 0)
        is_file = scope["path"] in self.file_bytes
        if has_body and scope["method"] in {"POST", "PUT", "PATCH"} and not is_file and not _is_json(kind):
            return UnsupportedMediaType("the body has no JSON content type")
        return None


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
