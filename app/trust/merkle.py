"""An append-only Merkle tree (RFC 6962, RFC 9162) over leaf hashes: appending, roots and proofs in O(log n) nodes.

What is stored are the hashes of complete subtrees: node (level, index) covers the leaves index * 2^level to
(index + 1) * 2^level - 1 and never changes once it is written, so a table, tiles or files can hold nodes. Two nodes a
leaf, 64 bytes of hashes. Verification is in `app.trust.verify`, which an auditor has, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from app.trust.verify import leaf_hash, node_hash, verify_consistency, verify_inclusion

__all__ = [
    "EMPTY_ROOT", "MemoryNodes", "NodeReader", "NodeStore", "append", "consistency_proof", "inclusion_proof",
    "leaf_hash",
    "node_hash", "root", "verify_consistency", "verify_inclusion",
]  # fmt: skip

EMPTY_ROOT = hashlib.sha256().digest()

Place = tuple[int, int]
"""(level, index) of a node."""
Range = tuple[int, int]
"""Leaves from the first to before the second."""


class NodeReader(Protocol):
    """Where nodes are read from."""

    def read(self, places: Sequence[Place]) -> Sequence[bytes]:
        """Hashes (32 bytes each) of these nodes, in this order; all in one call, so in one query. Raises KeyError."""
        ...


class NodeStore(NodeReader, Protocol):
    """Where nodes are written to."""

    def write(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        """Keep the nodes (level, first), (level, first + 1), ... Each is written once."""
        ...


class MemoryNodes:
    """Nodes in memory: for tests, verification and small logs."""

    def __init__(self) -> None:
        self._nodes: dict[Place, bytes] = {}

    def read(self, places: Sequence[Place]) -> list[bytes]:
        """See NodeReader."""
        return [self._nodes[place] for place in places]

    def write(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        """See NodeStore. Raises ValueError for a node that is there already: a log is never rewritten."""
        for index, found in enumerate(hashes, first):
            if self._nodes.setdefault((level, index), found) is not found:
                raise ValueError(f"node {index} of level {level} is written already")


def append(store: NodeStore, size: int, hashes: Sequence[bytes]) -> int:
    """Add leaves (their hashes) to a tree of `size`; the new size. Reads the open left edges of `size`, log n at most.

    The caller keeps the size, and holds whatever lock makes it the only one to append.
    """
    level, first, fresh = 0, size, list(hashes)
    while fresh:
        store.write(level, first, fresh)
        if first & 1:  # its left sibling was waiting for it
            fresh = [*store.read([(level, first - 1)]), *fresh]
            first -= 1
        fresh = [node_hash(fresh[at], fresh[at + 1]) for at in range(0, len(fresh) - 1, 2)]
        level, first = level + 1, first >> 1
    return size + len(hashes)


def root(store: NodeReader, size: int) -> bytes:
    """Root hash of the first `size` leaves (also of an earlier state of the log)."""
    return _hashes(store, [(0, size)])[0] if size else EMPTY_ROOT


def inclusion_proof(store: NodeReader, index: int, size: int) -> list[bytes]:
    """RFC 9162, 2.1.3.1: hashes from the leaf's sibling up. Raises ValueError when there is no such leaf."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} among {size}")
    low, high, path = 0, size, []
    while high - low > 1:
        middle = low + _half(high - low)
        if index < middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    return _hashes(store, path[::-1])


def consistency_proof(store: NodeReader, size: int, new_size: int) -> list[bytes]:
    """RFC 9162, 2.1.4.1: that the tree of `new_size` leaves begins with that of `size`. Empty where nothing is to show
    (from 0, or to itself). Raises ValueError when `size` is not within."""
    if not 0 <= size <= new_size:
        raise ValueError(f"{size} is not within {new_size}")
    if size in (0, new_size):
        return []
    low, high, path, whole = 0, new_size, [], True
    while high != size:
        middle = low + _half(high - low)
        if size <= middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low, whole = middle, False
    return _hashes(store, (path if whole else [*path, (low, high)])[::-1])


def _half(count: int) -> int:
    """The largest power of two below `count` (two at least)."""
    return 1 << (count - 1).bit_length() - 1


def _complete(low: int, high: int) -> list[Place]:
    """The complete subtrees that a range of the tree consists of, from the left."""
    places = []
    while low < high:
        level = (high - low).bit_length() - 1
        places.append((level, low >> level))
        low += 1 << level
    return places


def _hashes(store: NodeReader, ranges: Sequence[Range]) -> list[bytes]:
    """The hash over each range, of nodes that are read at once."""
    parts = [_complete(low, high) for low, high in ranges]
    nodes = iter(store.read([place for places in parts for place in places]))
    found = []
    for places in parts:
        *left, over = [next(nodes) for _ in places]
        for one in reversed(left):
            over = node_hash(one, over)
        found.append(over)
    return found
