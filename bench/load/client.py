"""One process of HTTP clients over kept-alive connections, as lean as Python allows: it shares the machine with what it
measures. Reads its task (a JSON object, see `Task`) from standard input, writes what it saw to standard output.

Closed loop: each connection sends its next call when it has the answer to the last. Open loop (`rate`): calls come when
they come, by a Poisson process, whether or not others are answered; a call that finds no free connection opens one, and
its time counts from its arrival.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

HEAD_END = b"\r\n\r\n"
NUMBER = b"%NUMBER%"
MOST_CONNECTIONS = 900


@dataclass(frozen=True)
class Task:
    """`calls` are whole HTTP requests, sent by turns; `%NUMBER%` is where each call differs (in `digits` digits)."""

    port: int
    seconds: float
    connections: int
    calls: list[str]
    first: int = 0
    digits: int = 12
    rate: float | None = None
    seed: int = 0


@dataclass
class Seen:
    """Statuses, seconds of each answered call, 429 and 503 without Retry-After, calls that got no answer."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    broken: int = 0
    took: float = 0.0


class Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.buffer, self.began = load, b"", 0.0
        self.busy = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Ready."""
        self.transport = transport

    def send(self, began: float) -> None:
        """Send the next call."""
        self.began, self.busy, self.buffer = began, True, b""
        self.transport.write(self.load.next_call())

    def data_received(self, data: bytes) -> None:
        """A part of an answer; whole once it has as many bytes as its head says."""
        self.buffer += data
        head, found, rest = self.buffer.partition(HEAD_END)
        if not found:
            return
        lowered = head.lower()
        _, _, after = lowered.partition(b"content-length:")
        if len(rest) < int(after.split(b"\r\n", 1)[0] or 0):
            return
        self.busy = False
        self.load.answered(self, head[9:12].decode(), b"retry-after:" in lowered, b"connection: close" in lowered)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side hung up."""
        self.load.lost(self)
        self.busy = False


class Load:
    """All connections of this process."""

    def __init__(self, task: Task) -> None:
        self.task, self.seen = task, Seen()
        self.calls = [call.encode() for call in task.calls]
        self.number = task.first
        self.idle: deque[Connection] = deque()
        self.connections: list[Connection] = []
        self.waiting: deque[float] = deque()
        self.open = 0
        self.ends = 0.0
        self.opening: set[asyncio.Task[None]] = set()

    def next_call(self) -> bytes:
        """The bytes of the next call."""
        self.number += 1
        call = self.calls[self.number % len(self.calls)]
        return call.replace(NUMBER, str(self.number).zfill(self.task.digits).encode())

    def answered(self, connection: Connection, status: str, retry_after: bool, closing: bool) -> None:
        """Note an answer, and go on."""
        now = time.perf_counter()
        if now <= self.ends or self.task.rate is not None:
            self.seen.statuses[status] += 1
            self.seen.without_retry_after += status in {"429", "503"} and not retry_after
            self.seen.seconds.append(now - connection.began)
        if closing:
            return
        if self.task.rate is None:
            if now < self.ends:
                connection.send(now)
        elif self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection ended."""
        self.open -= 1
        self.seen.broken += connection.busy
        if connection in self.idle:
            self.idle.remove(connection)

    async def connect(self) -> Connection:
        """One connection more."""
        self.open += 1
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.task.port)
        self.connections.append(made)
        return made

    async def run(self) -> Seen:
        """Do the task."""
        ready = [await self.connect() for _ in range(self.task.connections)]
        began = time.perf_counter()
        self.ends = began + self.task.seconds
        if self.task.rate is None:
            for connection in ready:
                connection.send(time.perf_counter())
            await asyncio.sleep(self.task.seconds)
        else:
            self.idle.extend(ready)
            await self._arrivals(began, self.task.rate)
        self.seen.took = time.perf_counter() - began
        for _ in range(1000):  # answers that are still to come, ten seconds of them
            if not self.waiting and all(not connection.busy for connection in self.connections):
                break
            await asyncio.sleep(0.01)
        self.seen.broken += len(self.waiting) + sum(connection.busy for connection in self.connections)
        return self.seen

    async def _arrivals(self, began: float, rate: float) -> None:
        draw = random.Random(self.task.seed)  # noqa: S311 - arrivals, no secret
        due = began + draw.expovariate(rate)
        while due < self.ends:
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if self.idle:
                self.idle.popleft().send(due)
            else:
                self.waiting.append(due)
                if self.open < MOST_CONNECTIONS:
                    self._open_one_more()
            due += draw.expovariate(rate)

    def _open_one_more(self) -> None:
        async def more() -> None:
            connection = await self.connect()
            if self.waiting:
                connection.send(self.waiting.popleft())
            else:
                self.idle.append(connection)

        task = asyncio.ensure_future(more())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)


async def main() -> None:
    """Do the task on standard input."""
    seen = await Load(Task(**json.load(sys.stdin))).run()
    json.dump(seen.__dict__, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
