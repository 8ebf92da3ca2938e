"""Server-sent events: any number of open streams, none of which holds a database connection or a thread.

One poller a process asks every `poll_seconds`, in one short transaction, what has happened to anything, and wakes the
streams that it may concern; each of those reads behind its own position, in a short transaction of a few shared
threads. The poller is a doorbell: a stream that it did not wake looks by itself at its next heartbeat. Polling and not
LISTEN: a notification needs a connection that is held, takes a lock that all committing transactions share, and comes
before older transactions have ended, so that the reader would have to ask again anyway.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import structlog
from fastapi import Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from app.db import Database, transaction
from app.errors import Overloaded, Unavailable, answer
from app.events import repository, service
from app.events.errors import TooManyStreams
from app.events.positions import Position
from app.events.repository import EventFilter
from app.events.schemas import EventView

log = structlog.get_logger(__name__)

Found = TypeVar("Found")
MEDIA_TYPE = "text/event-stream"
RETRY_MILLISECONDS = 2000
"""What a browser is told to wait before it connects again."""
PAUSE_SECONDS = 1.0
"""Between attempts while the database is away."""
READERS = 4
"""Threads, and so connections, that all streams of this process share."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
COMMENT = ": still here\n\n"


class Bell:
    """What wakes one stream: news of its subject, or of anything where it has none."""

    def __init__(self, subject: uuid.UUID | None) -> None:
        self.subject, self.rung = subject, asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, at most `seconds`; whether there were any."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.rung.wait(), seconds)
        news = self.rung.is_set()
        self.rung.clear()
        return news


class Streams:
    """The open streams of this process and their poller, which runs while there are any."""

    def __init__(self, db: Database, *, poll_seconds: float, heartbeat_seconds: float, per_key: int, most: int) -> None:
        self.db, self.poll_seconds, self.heartbeat_seconds = db, poll_seconds, heartbeat_seconds
        self.per_key, self.most = per_key, most
        self.bells: set[Bell] = set()
        self.of_key: Counter[uuid.UUID] = Counter()
        self._readers: anyio.CapacityLimiter | None = None
        self._poller: asyncio.Task[None] | None = None

    @contextmanager
    def opened(self, key_id: uuid.UUID, subject: uuid.UUID | None) -> Iterator[Bell]:
        """A place for a stream of this key. Raises TooManyStreams, Overloaded."""
        if self.of_key[key_id] >= self.per_key:
            raise TooManyStreams(f"{self.per_key} streams of this key are open", limit=self.per_key)
        if len(self.bells) >= self.most:
            raise Overloaded(f"{self.most} event streams are open")
        bell = Bell(subject)
        self.of_key[key_id] += 1
        self.bells.add(bell)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield bell
        finally:
            self.bells.discard(bell)
            self.of_key[key_id] -= 1
            if not self.bells and self._poller is not None:
                self._poller.cancel()

    async def read(self, what: Callable[[Session], Found]) -> Found:
        """Read in a short transaction of a shared thread. Raises Unavailable."""

        def run() -> Found:
            try:
                with transaction(self.db) as session:
                    return what(session)
            except SQLAlchemyError as error:
                raise Unavailable(f"the database refused ({type(error).__name__})") from None

        if self._readers is None:
            self._readers = anyio.CapacityLimiter(READERS)
        return await anyio.to_thread.run_sync(run, limiter=self._readers, abandon_on_cancel=True)

    async def _poll(self) -> None:
        position: Position | None = None
        while True:
            try:
                news = await self.read(partial(_news, position=position))
            except Unavailable:
                position = None
            else:
                for bell in self.bells:
                    if news.concern(bell.subject):
                        bell.rung.set()
                position = news.position
            await asyncio.sleep(self.poll_seconds)


@dataclass(frozen=True, slots=True)
class News:
    """Whether anything happened, to what, and up to where. `touched` None: nobody knows, so it concerns everybody."""

    any: bool
    touched: set[uuid.UUID] | None
    position: Position

    def concern(self, subject: uuid.UUID | None) -> bool:
        """Whether a stream about `subject` (None: about everything) should look."""
        return self.touched is None or (self.any and (subject is None or subject in self.touched))


def _news(session: Session, position: Position | None) -> News:
    """What happened behind `position`; None after a pause."""
    head = service.head(session)
    if position is None:
        return News(True, None, head)
    touched, happened = repository.touched(session, position, below=head.xid + 1)
    return News(happened, touched, head)


class EventStream(Response):
    """An answer that goes on as things happen, from behind `position` to the end of what it is about."""

    media_type = MEDIA_TYPE

    def __init__(self, streams: Streams, wanted: EventFilter, key_id: uuid.UUID, position: Position) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        self.streams, self.wanted, self.key_id, self.position = streams, wanted, key_id, position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, or answer that there is no place."""
        try:
            with self.streams.opened(self.key_id, self.wanted.request_id or self.wanted.job_id) as bell:
                lines = StreamingResponse(self._lines(bell), media_type=MEDIA_TYPE, headers=HEADERS)
                await lines(scope, receive, send)
        except (TooManyStreams, Overloaded) as error:
            await answer(error)(scope, receive, send)

    async def _lines(self, bell: Bell) -> AsyncIterator[str]:
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        while True:
            try:
                found = await self.streams.read(
                    lambda session: service.look(session, self.wanted, self.key_id, self.position)
                )
            except Unavailable:
                yield COMMENT
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            for event in found.events:
                yield as_text(event)
            self.position = found.position
            if found.ended is not None:
                yield f"event: end\ndata: {json.dumps({'state': found.ended})}\n\n"
                return
            if not found.more and not await bell.wait(self.streams.heartbeat_seconds):
                yield COMMENT


def as_text(event: EventView) -> str:
    """One event of the stream; its JSON has no line breaks."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
