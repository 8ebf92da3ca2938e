"""Data keys in memory: one question for many, bounded in number and time, and gone with what was destroyed."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.envelope import blind
from app.envelope.ahead import AT_ONCE
from app.envelope.errors import ContentDestroyed, DataKeyMissing
from app.envelope.keyring import Keyring
from app.envelope.kms import FileKeys
from app.envelope.store import KeyStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in ("get", "add"):
            monkeypatch.setattr(store, name, self.counted(name, getattr(store, name)))

    def counted(self, name: str, real):  # type: ignore[no-untyped-def]
        def called(*given):  # type: ignore[no-untyped-def]
            self.calls.append(name)
            return real(*given)

        return called


def ids(count: int) -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(count)]


def test_two_rings_agree_on_a_key_whoever_makes_it(store: KeyStore, keys: FileKeys) -> None:
    wanted, rings = ids(20), [Keyring(store, keys) for _ in range(4)]
    found = []
    threads = [threading.Thread(target=lambda ring=ring: found.append(ring.create(wanted))) for ring in rings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    salts = [{key_id: key.salt for key_id, key in one.items()} for one in found]
    assert len(salts) == 4 and all(one == salts[0] for one in salts)
    assert len(set(salts[0].values())) == 20


def test_many_are_one_question_and_the_next_time_none(
    store: KeyStore, keys: FileKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, asked = ids(300), Counting(store, monkeypatch)
    Keyring(store, keys).create(wanted)
    assert asked.calls == ["add"]
    ring = Keyring(store, keys)
    ring.get(wanted)
    ring.get(wanted)
    ring.create(wanted)
    assert asked.calls == ["add", "get"]


def test_fresh_keys_are_everybodys_own_and_stored_by_the_dozen(
    store: KeyStore, keys: FileKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, add = [], store.add
    monkeypatch.setattr(store, "add", lambda wrapped, now_ms: asked.append(len(wrapped)) or add(wrapped, now_ms))
    ring = Keyring(store, keys)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: ring.fresh(), range(3 * AT_ONCE)))
    assert len({key.id for key in taken}) == 3 * AT_ONCE
    assert 3 <= len(asked) <= 3 + 4  # some may make them at the same time
    assert len(ring) == 0, "whoever took one holds it"
    other = Keyring(store, keys)
    assert other.get([key.id for key in taken])[taken[0].id].salt == taken[0].salt


def test_it_holds_so_many_for_so_long(store: KeyStore, keys: FileKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wanted = Clock(), ids(30)
    ring = Keyring(store, keys, capacity=10, seconds=60, clock=clock)
    assert len(ring.create(wanted)) == 30
    assert len(ring) == 10
    asked = Counting(store, monkeypatch)
    ring.get(wanted[-10:])
    assert asked.calls == []
    clock.now = 60.0
    ring.get(wanted[-1:])
    assert (asked.calls, len(ring)) == (["get"], 1)
    ring.clear()
    assert len(ring) == 0


def test_another_process_opens_what_was_destroyed_no_longer_than_it_holds_keys(store: KeyStore, keys: FileKeys) -> None:
    clock, (gone, kept) = Clock(), ids(2)
    ours, theirs = Keyring(store, keys), Keyring(store, keys, seconds=60, clock=clock)
    ours.create([gone, kept])
    theirs.get([gone, kept])
    ours.destroy([gone])
    with pytest.raises(ContentDestroyed):
        ours.get([gone])
    assert ours.readable([gone, kept]).keys() == {kept}
    clock.now = 59.0
    theirs.get([gone])
    clock.now = 60.0
    with pytest.raises(ContentDestroyed):
        theirs.get([gone])
    with pytest.raises(ContentDestroyed):
        theirs.create([gone])


def test_a_key_that_nobody_made_is_missing_not_made(keyring: Keyring) -> None:
    with pytest.raises(DataKeyMissing):
        keyring.get(ids(1))


def test_blind_indexes_compare_within_a_scope_and_field_only(store: KeyStore, keys: FileKeys) -> None:
    here, there = ids(2)
    first, second = (blind.blind(Keyring(store, keys), here, "content", ["a", "b", "a"]) for _ in range(2))
    assert first == second
    assert first[0] == first[2] != first[1]
    assert len(first[0]) == 64
    ring = Keyring(store, keys)
    assert blind.blind(ring, there, "content", ["a"]) != first[:1]
    assert blind.blind(ring, here, "subject", ["a"]) != first[:1]
