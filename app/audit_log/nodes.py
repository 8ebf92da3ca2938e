"""Nodes of the tree in Postgres. Levels below STORED_FROM are computed from leaf hashes, which `log_leaf` has anyway: a
block of 2^STORED_FROM of them is one or two pages, and seven of eight rows of `log_node` are saved (record 32).

Whatever is asked for is read in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.audit_log import repository
from app.audit_log.repository import Reading
from app.trust.merkle import Place
from app.trust.verify import node_hash

STORED_FROM = 4


class Nodes:
    """See app.trust.merkle.NodeReader."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def read(self, places: Sequence[Place]) -> list[bytes]:
        """32 bytes each, in their order. Raises KeyError for what the log does not hold."""
        stored = {place for place in places if place[0] >= STORED_FROM}
        low = set(places) - stored
        leaves = {leaf for level, index in low for leaf in range(index << level, index + 1 << level)}
        found = repository.read_nodes(self._reading, sorted(leaves), sorted(stored)) if places else {}
        return [found[place] if place in stored else _computed(found, place) for place in places]


class Growth:
    """See app.trust.merkle.NodeStore: what a tree of `size` leaves grows by. The open left edge is read at once when it
    is first needed; `written` are the nodes to be stored, which `flush` does in one statement."""

    def __init__(self, session: Session, size: int) -> None:
        self._session, self._edge = session, edge_of(size)
        self._known: dict[Place, bytes] | None = None
        self.written: list[tuple[int, int, bytes]] = []

    def read(self, places: Sequence[Place]) -> list[bytes]:
        """Nodes of the edge. Raises KeyError for others."""
        if self._known is None:
            self._known = dict(zip(self._edge, Nodes(self._session).read(self._edge), strict=True))
        return [self._known[place] for place in places]

    def write(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        """Note nodes; those of low levels are not kept."""
        if level >= STORED_FROM:
            self.written += [(level, index, found) for index, found in enumerate(hashes, first)]

    def flush(self) -> None:
        """Store what was noted."""
        if self.written:
            repository.add_nodes(self._session, self.written)
            self.written = []


def edge_of(size: int) -> list[Place]:
    """The complete subtrees that a tree of `size` leaves ends with, one for each bit that is set: lowest level
    first."""
    return [(level, (size >> level) - 1) for level in range(size.bit_length()) if size >> level & 1]


def _computed(leaves: Mapping[Place, bytes], place: Place) -> bytes:
    level, index = place
    if level == 0:
        return leaves[place]
    left, right = (_computed(leaves, (level - 1, 2 * index + side)) for side in (0, 1))
    return node_hash(left, right)
