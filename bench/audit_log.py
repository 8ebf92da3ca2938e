"""What the audit log's tree costs: appending, proofs and storage, by default at 10,000,000 leaves.

    python bench/audit_log.py                      ten million leaves, some minutes
    python bench/audit_log.py --leaves 1000000     about a minute at most

Nodes lie in one file a level in a temporary directory. Leaves are numbered, of the size of the service's; batches are
of the size that a sequencer takes. Each proof is verified against the root.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from provenance import commit

from app.trust.merkle import (
    append,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

HASH = 32


class FileNodes:
    """One file a level, 32 bytes a node."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._files = directory, dict[int, BinaryIO]()

    def _file(self, level: int) -> BinaryIO:
        if level not in self._files:
            self._files[level] = (self._directory / str(level)).open("w+b")
        return self._files[level]

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        found = []
        for level, index in places:
            file = self._file(level)
            file.seek(index * HASH)
            found.append(file.read(HASH))
        return found

    def write(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        file = self._file(level)
        file.seek(first * HASH)
        file.write(b"".join(hashes))

    def bytes_used(self) -> int:
        for file in self._files.values():
            file.flush()
        return sum(path.stat().st_size for path in self._directory.iterdir())


def leaf(number: int) -> bytes:
    """Bytes of about the size of an audit leaf."""
    return b'{"at":"2026-01-01T00:00:00.000000+00:00","event":"request.queued","fields":{},"id":"%036d"}' % number


def timed(count: int, act: Callable[[], None]) -> float:
    """Microseconds each."""
    start = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - start) / count * 1e6


def main() -> None:
    """Append, prove, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--proofs", type=int, default=2_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        nodes, size = FileNodes(Path(place)), 0
        start = time.perf_counter()
        while size < given.leaves:
            numbers = range(size, min(size + given.batch, given.leaves))
            size = append(nodes, size, [leaf_hash(leaf(number)) for number in numbers])
        appended = time.perf_counter() - start
        head, rng = root(nodes, size), random.Random(0)  # noqa: S311  which leaves are proved, the same each time

        def prove() -> None:
            index = rng.randrange(size)
            verify_inclusion(index, size, leaf_hash(leaf(index)), inclusion_proof(nodes, index, size), head)

        def extend() -> None:
            old = rng.randrange(1, size)
            verify_consistency(old, root(nodes, old), size, head, consistency_proof(nodes, old, size))

        print(json.dumps({
            "commit": commit(), "leaves": size, "batch": given.batch, "append_us_per_leaf": appended / size * 1e6,
            "inclusion_prove_and_verify_us": timed(given.proofs, prove),
            "consistency_prove_and_verify_us": timed(given.proofs, extend),
            "steps_of_a_proof": len(inclusion_proof(nodes, 0, size)), "node_bytes_per_leaf": nodes.bytes_used() / size,
        }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
