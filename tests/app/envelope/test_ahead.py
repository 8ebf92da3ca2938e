"""Keys made ahead: everybody's own, made by one thread however many ask, and before they run out."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.envelope.ahead import AT_ONCE, FEW, Ahead
from app.envelope.errors import KeyStoreAway, NotAtHand
from app.envelope.sealing import DataKey


class Maker:
    """Makes keys slowly, and notes how many makings there were at a time."""

    def __init__(self) -> None:
        self.made, self.at_a_time, self.most = 0, 0, 0
        self.away = False
        self._lock = threading.Lock()

    def __call__(self, count: int) -> list[DataKey]:
        with self._lock:
            self.at_a_time += 1
            self.most = max(self.most, self.at_a_time)
        time.sleep(0.02)
        with self._lock:
            self.at_a_time -= 1
            self.made += count
        if self.away:
            raise KeyStoreAway
        return [DataKey.of(uuid.uuid4(), bytes(32)) for _ in range(count)]


def test_however_many_ask_at_once_one_makes_keys_and_nobody_gets_anothers() -> None:
    maker = Maker()
    ahead = Ahead(maker)
    with ThreadPoolExecutor(32) as pool:
        taken = list(pool.map(lambda _: ahead.take(waits=True).id, range(2 * AT_ONCE)))
    assert len(set(taken)) == 2 * AT_ONCE and maker.most == 1


def test_before_they_run_out_more_are_made_while_nobody_waits() -> None:
    maker = Maker()
    ahead = Ahead(maker)
    taken = {ahead.take(waits=True).id}
    while len(taken) < 10 * AT_ONCE:
        try:
            taken.add(ahead.take(waits=False).id)
        except NotAtHand:
            pytest.fail("nobody made any in time")
        if len(taken) % FEW == 0:
            time.sleep(0.06)  # as long as making some takes, and a little


def test_one_that_does_not_wait_is_told_so_at_once_and_one_that_does_why() -> None:
    maker = Maker()
    ahead, maker.away = Ahead(maker), True
    with pytest.raises(NotAtHand):
        ahead.take(waits=False)
    with pytest.raises(KeyStoreAway):
        ahead.take(waits=True)
    maker.away = False
    assert ahead.take(waits=True) and ahead.take(waits=False)


def test_a_store_that_is_away_is_asked_again_by_whoever_needs_a_key() -> None:
    maker = Maker()
    ahead = Ahead(maker)
    ahead.take(waits=True)
    maker.away = True
    for _ in range(AT_ONCE - 1):
        ahead.take(waits=False)
    deadline = time.monotonic() + 10
    while maker.at_a_time and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(KeyStoreAway):
        ahead.take(waits=True)
    maker.away = False
    assert ahead.take(waits=True)
