"""Work that comes while other work is under way is done together: what costs as much for thirty as for one (a commit, a
round trip, a thread) is paid once.

Nobody waits for others to come: what finds nothing at work is done at once, alone. The more there is to do, the more is
done at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Given = TypeVar("Given")
Answer = TypeVar("Answer")


class Gathering(Generic[Given, Answer]):
    """`work` gives an answer for each of up to `most` that are given to it, in their order; it is called by one task,
    one time after the other. For one event loop."""

    def __init__(self, work: Callable[[Sequence[Given]], Awaitable[Sequence[Answer]]], *, most: int) -> None:
        self._work, self._most = work, most
        self._waiting: deque[tuple[Given, asyncio.Future[Answer]]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return self._task is None

    async def answer(self, given: Given) -> Answer:
        """The answer to one. Raises what `work` raises, as for every one that was worked on with it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((given, future))
        if self._task is None:
            self._task = asyncio.create_task(self._go_on(), context=Context())  # it is for more than this call
        return await future

    async def _go_on(self) -> None:
        """Until nobody waits. What was added meanwhile is seen before this ends: nothing is awaited in between."""
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                done, _ = await asyncio.wait({asyncio.ensure_future(self._work([given for given, _ in some]))})
                _tell(some, done.pop())
        finally:
            self._task = None


def _tell(some: Sequence[tuple[Given, asyncio.Future[Answer]]], done: asyncio.Future[Sequence[Answer]]) -> None:
    """Each its answer, or all of them the error, whatever it was; whoever asked may have gone meanwhile."""
    error = done.exception()
    if error is not None:
        for _, future in some:
            if not future.done():
                future.set_exception(error)
        return
    for (_, future), answer in zip(some, done.result(), strict=True):
        if not future.done():
            future.set_result(answer)
