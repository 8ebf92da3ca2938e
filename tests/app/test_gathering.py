"""Work that comes together is done together: each gets its own answer, whoever else failed, left or came late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gathering import Gathering


class Doubling:
    """Work that takes a turn of the loop, and notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    async def __call__(self, some: Sequence[int]) -> list[int]:
        self.seen.append(list(some))
        await asyncio.sleep(0)
        if 13 in some:
            raise ValueError("thirteen")
        return [2 * one for one in some]


def test_the_first_is_done_at_once_and_what_comes_meanwhile_together() -> None:
    work = Doubling()

    async def life() -> list[int]:
        gathering = Gathering(work, most=3)
        assert gathering.idle
        found = await asyncio.gather(*(gathering.answer(number) for number in range(6)))
        assert gathering.idle
        return [*found, await gathering.answer(6)]

    assert asyncio.run(life()) == [0, 2, 4, 6, 8, 10, 12]
    assert work.seen == [[0, 1, 2], [3, 4, 5], [6]]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=20), st.integers(1, 5))
def test_whenever_they_come_each_gets_its_own_answer(given_: list[tuple[int, int]], most: int) -> None:
    work = Doubling()

    async def life() -> list[int]:
        gathering = Gathering(work, most=most)

        async def one(number: int, turns: int) -> int:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await gathering.answer(number)

        return await asyncio.gather(*(one(number, turns) for number, turns in given_))

    assert asyncio.run(life()) == [2 * number for number, _ in given_]
    assert sorted(number for some in work.seen for number in some) == sorted(number for number, _ in given_)
    assert all(len(some) <= most for some in work.seen)


def test_what_fails_fails_for_those_that_were_worked_on_with_it_alone() -> None:
    async def life() -> list[int | BaseException]:
        gathering = Gathering(Doubling(), most=2)
        return await asyncio.gather(*(gathering.answer(n) for n in (1, 13, 2, 3)), return_exceptions=True)

    found = asyncio.run(life())
    assert [type(one) for one in found[:2]] == [ValueError, ValueError]
    assert found[2:] == [4, 6]


def test_one_that_does_not_wait_any_longer_takes_nothing_from_others() -> None:
    async def life() -> int:
        gathering = Gathering(Doubling(), most=8)
        gone = asyncio.create_task(gathering.answer(13))
        also_gone = asyncio.create_task(gathering.answer(1))
        await asyncio.sleep(0)
        for task in (gone, also_gone):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return await gathering.answer(21)

    assert asyncio.run(life()) == 42
