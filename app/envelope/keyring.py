"""Data keys in memory: few, for a short time. Behind it the key store and the key-encryption keys, asked in bulk."""

from __future__ import annotations

import copy
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn

from app.envelope.ahead import Ahead
from app.envelope.errors import ContentDestroyed, DataKeyMissing, NotAtHand
from app.envelope.kms import KeyManagement, Wrapped
from app.envelope.sealing import SECRET_BYTES, DataKey
from app.envelope.store import Destroyed, KeyStore
from app.ids import new_ids


class _Nobody:
    """In the place of whoever would have to be asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NotAtHand


class Keyring:
    """The data keys of this process: at most `capacity`, each for at most `seconds` since it was unwrapped. So long may
    another process go on opening what was destroyed meanwhile. Safe between threads."""

    def __init__(
        self,
        store: KeyStore,
        keys: KeyManagement,
        *,
        capacity: int = 10_000,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.keys = store, keys
        self._capacity, self._seconds, self._clock = capacity, seconds, clock
        self._held: OrderedDict[uuid.UUID, tuple[float, DataKey]] = OrderedDict()
        self._ahead, self._asks = Ahead(self._make), True
        self._lock = threading.Lock()

    def at_hand(self) -> Keyring:
        """The same keys, as far as they are in memory: where another would have to be asked for, NotAtHand is raised at
        once. For whom nobody may wait, such as an event loop."""
        found = copy.copy(self)  # what it holds is one thing, looked at by two
        nobody: Any = _Nobody()
        found.store = found.keys = nobody
        found._asks = False
        return found

    def create(self, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, DataKey]:
        """A key for each id, made now unless it has one. They are stored before this returns, so that content sealed
        with them can be committed. Raises ContentDestroyed, KeyStoreAway, NoKeyEncryptionKey, WrappedUnreadable."""
        found = self._remembered(ids)
        lacking = [key_id for key_id in dict.fromkeys(ids) if key_id not in found]
        if not lacking:
            return found
        made = {key_id: secrets.token_bytes(SECRET_BYTES) for key_id in lacking}
        wrapped = self.keys.wrap([(secret, key_id.bytes) for key_id, secret in made.items()])
        kept = self.store.add(dict(zip(made, wrapped, strict=True)), time.time_ns() // 1_000_000)
        fresh = {key_id: DataKey.of(key_id, made[key_id]) for key_id in lacking if key_id in kept}
        self._remember(fresh)
        others = [key_id for key_id in lacking if key_id not in kept]  # somebody else's key counts, or a tombstone
        return found | fresh | (self.get(others) if others else {})

    def fresh(self) -> DataKey:
        """A key that nobody else has, for a request that comes in; whoever takes it has to hold it while it seals.
        Raises KeyStoreAway, NoKeyEncryptionKey."""
        return self._ahead.take(waits=self._asks)

    def _make(self, count: int) -> Collection[DataKey]:
        made = self.create(new_ids(count))
        self.drop(made)
        return made.values()

    def get(self, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, DataKey]:
        """The key of each id. Raises ContentDestroyed if one of them was destroyed, DataKeyMissing, KeyStoreAway,
        NoKeyEncryptionKey, WrappedUnreadable."""
        found = self.readable(ids)
        for key_id in ids:
            if key_id not in found:
                raise ContentDestroyed
        return found

    def readable(self, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, DataKey]:
        """The same without those that were destroyed."""
        found = self._remembered(ids)
        lacking = [key_id for key_id in dict.fromkeys(ids) if key_id not in found]
        if not lacking:
            return found
        stored = self.store.get(lacking)
        if len(stored) < len(lacking):
            raise DataKeyMissing(f"{len(lacking) - len(stored)} of {len(lacking)} keys are not there")
        wrapped = {key_id: one for key_id, one in stored.items() if isinstance(one, Wrapped)}
        opened = self.keys.unwrap([(one, key_id.bytes) for key_id, one in wrapped.items()])
        fresh = {key_id: DataKey.of(key_id, secret) for key_id, secret in zip(wrapped, opened, strict=True)}
        self._remember(fresh)
        return found | fresh

    def held(self, key_id: uuid.UUID) -> DataKey | None:
        """The key if it is at hand and its time has not run out."""
        held = self._held.get(key_id)  # one look in a dictionary: no lock is needed
        return held[1] if held is not None and self._clock() < held[0] else None

    def destroy(self, ids: Collection[uuid.UUID]) -> list[Destroyed]:
        """Destroy keys for good; processes that hold them go on for `seconds` at most. What an audit leaf says of each.
        Can be repeated. Raises KeyStoreAway."""
        try:
            return self.store.destroy(ids, time.time_ns() // 1_000_000)
        finally:
            self.drop(ids)

    def drop(self, ids: Iterable[uuid.UUID]) -> None:
        """Hold these keys no longer."""
        with self._lock:
            for key_id in ids:
                self._held.pop(key_id, None)

    def clear(self) -> None:
        """Hold no key any longer."""
        with self._lock:
            self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    def _remembered(self, ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, DataKey]:
        found, now = {}, self._clock()
        with self._lock:
            self._expire(now)
            for key_id in ids:
                held = self._held.get(key_id)
                if held is not None:
                    found[key_id] = held[1]
        return found

    def _remember(self, keys: dict[uuid.UUID, DataKey]) -> None:
        now = self._clock()
        with self._lock:
            for key_id, key in keys.items():
                self._held.pop(key_id, None)
                self._held[key_id] = (now + self._seconds, key)
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)

    def _expire(self, now: float) -> None:
        """The oldest come first: they run out first, and go first where there are too many."""
        while self._held and next(iter(self._held.values()))[0] <= now:
            self._held.popitem(last=False)
