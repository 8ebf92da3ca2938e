"""The whole tree computed anew from leaves, one after the other, in the memory of one branch; compared with what was
signed. Of the database, or of an export of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from app.audit_log import export, keys, repository
from app.audit_log.nodes import Nodes
from app.db import Database, reading
from app.errors import Unprocessable
from app.trust import merkle
from app.trust.keys import Key
from app.trust.merkle import EMPTY_ROOT
from app.trust.verify import Rejected, leaf_hash, node_hash, open_checkpoint, parse_keys

MOST_SAID = 20
MOST_LINE_BYTES = 1 << 20
Leaf = tuple[int, bytes, bytes | None]
"""Number, hash, bytes (None: expired)."""


class NotAnExport(Unprocessable):
    """The file is something else."""

    type, title = "not-a-log-export", "This is no export of an audit log"
    mend = "Make one with `grail log export`, or with GET /v1/log/export, and keep it as it comes."


class Tree:
    """A tree that grows by a leaf at a time and keeps nothing but its open left edge: log n hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[tuple[int, bytes]] = []

    def add(self, found: bytes) -> None:
        """The hash of the next leaf."""
        level = 0
        while self._edge and self._edge[-1][0] == level:
            found = node_hash(self._edge.pop()[1], found)
            level += 1
        self._edge.append((level, found))
        self.size += 1

    def root(self) -> bytes:
        """The root over what was added so far."""
        if not self._edge:
            return EMPTY_ROOT
        over = self._edge[-1][1]
        for _, left in reversed(self._edge[:-1]):
            over = node_hash(left, over)
        return over


@dataclass(slots=True)
class Audited:
    """What was looked at, and `faults`: what does not hold, at most MOST_SAID of them."""

    leaves: int = 0
    expired: int = 0
    checkpoints: int = 0
    root: bytes = EMPTY_ROOT
    faults: list[str] = field(default_factory=list)

    def say(self, fault: str) -> None:
        """Note a fault."""
        if len(self.faults) < MOST_SAID:
            self.faults.append(fault)


def recompute(leaves: Iterable[Leaf], signed: Mapping[int, set[bytes]]) -> Audited:
    """Compute the tree anew; `signed` are roots that were signed, by size, and each has to come about."""
    found, tree, open_sizes = Audited(), Tree(), set(signed)
    for position, digest, leaf in leaves:
        if position != tree.size:
            found.say(f"leaf {tree.size} is missing, {position} comes instead")
            break
        if leaf is None:
            found.expired += 1
        elif leaf_hash(leaf) != digest:
            found.say(f"leaf {position} was changed: its bytes do not have its hash")
        tree.add(digest)
        if tree.size in open_sizes:
            open_sizes.discard(tree.size)
            if signed[tree.size] != {tree.root()}:
                found.say(f"the first {tree.size} leaves are not those that were signed")
    for size in sorted(open_sizes):
        found.say(f"{size} leaves were signed, and {tree.size} are there")
    found.leaves, found.root = tree.size, tree.root()
    return found


def opened(notes: Iterable[bytes], ring: Sequence[Key], found: list[str]) -> dict[int, set[bytes]]:
    """Roots by size, of notes that a key of the ring signed. What does not verify is told to `found`: but for
    notes of revoked keys, which count for nothing."""
    signed: dict[int, set[bytes]] = {}
    for note in notes:
        try:
            head = open_checkpoint(note, ring)
        except Rejected as error:
            if error.kind != "key-refused":
                found.append(f"a checkpoint does not verify: {error}")
            continue
        signed.setdefault(head.size, set()).add(head.root)
    return signed


def audit(db: Database, given: Sequence[Key] | None = None) -> Audited:
    """Everything that the database holds: leaves against hashes, hashes against nodes and checkpoints, the trail
    against the log. With the keys of an auditor, or those of the ring. Raises Unavailable."""
    with reading(db) as connection:
        size = repository.size(connection)
        ring = given or keys.ring(connection).keys
    faults: list[str] = []
    signed = opened(_notes(db), ring, faults)
    found = recompute(_leaves(db, max(size, *signed) if signed else size), signed)
    found.checkpoints = sum(map(len, signed.values()))
    for fault in faults:
        found.say(fault)
    with reading(db) as connection:
        if size and found.leaves == size and merkle.root(Nodes(connection), size) != found.root:
            found.say("the nodes of the tree are not those of its leaves: proofs do not verify")
        if lost := repository.unlogged(connection):
            found.say(f"{lost} leaves of the trail neither have a number nor wait for one")
    return found


def audit_file(file: IO[bytes], given: Sequence[Key] | None = None) -> Audited:
    """The same of an export, read twice, so that it has to be a file and no pipe. Without keys of the auditor's own
    those in the file are used: whoever forges a log brings theirs. Raises NotAnExport."""
    head = _parsed(file.readline(MOST_LINE_BYTES))
    if head.get("format") != export.FORMAT:
        raise NotAnExport
    try:
        ring = given or parse_keys(_text(head, "keys"), unsafe=True)
    except Rejected as error:
        raise NotAnExport(str(error)) from None
    faults: list[str] = []
    notes = [_text(head, "checkpoint").encode()]
    notes += [_text(line, "checkpoint").encode() for line in _parsed_lines(file) if "checkpoint" in line]
    signed = opened(notes, ring, faults)
    file.seek(0)
    file.readline(MOST_LINE_BYTES)
    found = recompute(_leaves_of(_parsed_lines(file)), signed)
    found.checkpoints = sum(map(len, signed.values()))
    if (found.leaves, found.root.hex()) != (head.get("size"), head.get("root")):
        found.say("the leaves are not those that the head of the file names")
    for fault in faults:
        found.say(fault)
    return found


def _notes(db: Database) -> Iterator[bytes]:
    after = 0
    while True:
        with reading(db) as connection:
            rows = repository.checkpoints(connection, after, export.AT_ONCE)
        if not rows:
            return
        after = rows[-1].id
        yield from (bytes(row.note) for row in rows)


def _leaves(db: Database, end: int) -> Iterator[Leaf]:
    for start in range(0, end, export.AT_ONCE):
        with reading(db) as connection:
            rows = repository.leaves(connection, start, min(start + export.AT_ONCE, end))
        yield from ((row.position, bytes(row.hash), None if row.leaf is None else bytes(row.leaf)) for row in rows)


def _parsed_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    while line := file.readline(MOST_LINE_BYTES):
        yield _parsed(line)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise NotAnExport("a line is no JSON") from None
    if not isinstance(found, dict):
        raise NotAnExport("a line is no object")
    return found


def _text(line: Mapping[str, Any], name: str) -> str:
    """A field of a line that has to be text, without halves of signs. Raises NotAnExport."""
    found = line.get(name)
    if not isinstance(found, str) or found.encode(errors="replace").decode() != found:
        raise NotAnExport("a line has another form")
    return found


def _leaves_of(lines: Iterable[dict[str, Any]]) -> Iterator[Leaf]:
    for line in lines:
        if "position" not in line:
            continue
        try:
            leaf = None if line["leaf"] is None else line["leaf"].encode()
            yield line["position"], bytes.fromhex(line["hash"]), leaf
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NotAnExport("a line has another form") from None
