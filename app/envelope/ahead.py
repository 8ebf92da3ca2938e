"""Keys that nobody has yet, made by the dozen before they are needed: the key store takes as long for one.

One thread makes them at a time, however many ask, and it begins while there are some left: whoever takes one hardly
ever waits. Those that are left when the process ends stay in the store for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from app.envelope.errors import NotAtHand
from app.envelope.sealing import DataKey
from app.errors import ServiceError

AT_ONCE, FEW = 128, 64


class Ahead:
    """`make` stores so many new keys and gives them. Safe between threads."""

    def __init__(self, make: Callable[[int], Collection[DataKey]]) -> None:
        self._make = make
        self._keys: list[DataKey] = []
        self._making = threading.Lock()

    def take(self, *, waits: bool) -> DataKey:
        """A key, for one caller alone. Raises what `make` does, or NotAtHand for one that does not wait."""
        key = self._pop()
        while key is None:
            if not waits:
                raise NotAtHand
            with self._making:
                if not self._keys:
                    self._keys.extend(self._make(AT_ONCE))
            key = self._pop()
        if len(self._keys) < FEW and not self._making.locked():
            threading.Thread(target=self._refill, name="keys-ahead", daemon=True).start()
        return key

    def _pop(self) -> DataKey | None:
        try:
            return self._keys.pop()
        except IndexError:
            return None

    def _refill(self) -> None:
        if not self._making.acquire(blocking=False):
            return
        try:
            self._keys.extend(self._make(AT_ONCE))
        except ServiceError:  # whoever takes the last one asks, too, and is told
            return
        finally:
            self._making.release()
