"""Pure ASGI middleware: a process takes on no more than it can answer soon. What is over it is refused at once: a queue
without a bound makes all callers wait for longer than any of them does."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Overloaded, answer

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics"})
"""Whoever watches a process has to see it under load most of all."""
STREAM = b"text/event-stream"


class InFlight:
    """At most `most` calls at work. An event stream leaves its place once it has begun: those have a bound of their
    own (`app.events.streams`)."""

    def __init__(self, app: ASGIApp, most: int, shed: Callable[[], None]) -> None:
        self.app, self.most, self.shed, self.count = app, most, shed, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            await self.app(scope, receive, send)
            return
        if self.count >= self.most:
            self.shed()
            await answer(Overloaded(f"{self.most} calls are at work"))(scope, receive, send)
            return
        self.count += 1
        held = True

        def leave() -> None:
            nonlocal held
            self.count -= held
            held = False

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and is_stream(message):
                leave()
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            leave()


def is_stream(start: Message) -> bool:
    """Whether an answer goes on as things happen."""
    return any(name == b"content-type" and value.startswith(STREAM) for name, value in start.get("headers", ()))
