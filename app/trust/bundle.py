"""The bundle of a report, `report.zip`: what an auditor needs to check it without us. Read by `app.trust.verify`.

    report.json       the report, ids of items blinded | named with their SHA-256
    report.pdf/.html  the same for people              | by the signed statement
    scores.json       what its figures rest on         |
    events.jsonl      the requests' leaves in the log  |
    adapter/*.json    manifests, new and old           |
    statement.json    the DSSE envelope of that statement
    checkpoint        the log's state, signed
    log.json          proofs that the leaves, and one that seals the statement, are in that log

In order: `contents`, sign a statement about them (`app.trust.statement.about_report`), put the seal into the log, and
once it has its number `assemble` with the proofs. Later states of the log give other bundles with the same statement.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.trust.canonical import canonical
from app.trust.commitments import blinded
from app.trust.merkle import NodeReader, consistency_proof, inclusion_proof, root
from app.trust.verify import (
    CHECKPOINT,
    EVENTS,
    LOG,
    LOG_SCHEMA,
    NEW,
    OLD,
    REPORT,
    SCORES,
    STATEMENT,
    Proof,
    base64_of,
    read_bundle,
    wrapped,
)

__all__ = [
    "Placed", "Proof", "archive", "assemble", "contents", "digests", "log_json", "prove", "read_bundle", "scores_of",
    "seal_fields",
]  # fmt: skip

SCORES_SCHEMA = "grail.scores/1"
PDF, HTML = "report.pdf", "report.html"
OF_ROLE = {"paraphrase": "forget_paraphrase", "measure": "forget_unrequested", "erased": "forget_earlier"}
KEPT = ("domain", "before", "after", "reference")


def scores_of(
    document: Mapping[str, Any], salt: bytes, held_out: Collection[str] = (), own: Collection[str] = ()
) -> bytes:
    """`scores.json` from a report's examples: every item's scores under ids that are blinded with `salt`, in the order
    in which the intervals are drawn. `held_out` are ids of retain items that were not trained on; items keep the
    request they came with where it is one of `own`, the requests that the report shows."""
    items = [
        {
            "id": blinded(salt, "example", example["id"]),
            "subject": blinded(salt, "subject", example["subject_id"]),
            "request": example["request"] if example["request"] in own else None,
            "groups": groups_of(example, held_out),
            **{name: example[name] for name in KEPT},
        }
        for example in document["examples"]
    ]
    return canonical({"schema": SCORES_SCHEMA, "items": items})


def blinded_report(document: Mapping[str, Any], salt: bytes) -> dict[str, Any]:
    """The report as a bundle shows it: items and subjects have the ids that `scores_of` gives them with the same salt,
    and stand in the order of these, so that neither ids nor places lead back to the service's rows."""
    items = [
        {
            **example,
            "id": blinded(salt, "example", example["id"]),
            "subject_id": blinded(salt, "subject", example["subject_id"]),
        }
        for example in document["examples"]
    ]
    return {**document, "examples": sorted(items, key=lambda item: str(item["id"]))}


def groups_of(example: Mapping[str, Any], held_out: Collection[str]) -> list[str]:
    """The groups in whose means an example counts (as in grail.evaluate): none where the base model knows it."""
    role, retain = example["role"], example["segment"] == "retain"
    if example["outcome"] == "in_base":
        return []
    if role == "keep" or (role == "item" and retain):
        return ["retain", "held_out"] if example["id"] in held_out else ["retain"]
    if retain:
        return ["retain_paraphrase"] if role == "paraphrase" else []
    return [OF_ROLE.get(role, "forget")]


def contents(
    *,
    report: bytes,
    scores: bytes,
    events: Sequence[bytes],
    new: bytes | None = None,
    old: bytes | None = None,
    pdf: bytes | None = None,
    html: bytes | None = None,
) -> dict[str, bytes]:
    """The files that are signed. `events` are leaves of the log as they lie there; `new` and `old` the adapter
    versions'
    manifests as they lie in their directories. Raises ValueError for a leaf that holds a newline."""
    if any(b"\n" in leaf for leaf in events):
        raise ValueError("a leaf is canonical JSON, which has no newline")
    given = {
        REPORT: report, SCORES: scores, EVENTS: b"".join(leaf + b"\n" for leaf in events), NEW: new, OLD: old, PDF: pdf,
        HTML: html,
    }  # fmt: skip
    return {name: data for name, data in given.items() if data is not None}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name: the subjects of the statement."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def seal_fields(payload: bytes, report: bytes) -> dict[str, str]:
    """The fields of the leaf, of the event `report.sealed`, that seals a statement's payload in the log."""
    return {"statement": hashlib.sha256(payload).hexdigest(), "report": hashlib.sha256(report).hexdigest()}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where in the log the requests' events stand, in the order of `contents`, and then the seal; and the seal's
    leaf."""

    indices: tuple[int, ...]
    seal: bytes


def prove(nodes: NodeReader, size: int, placed: Placed, earlier: Sequence[int] = ()) -> bytes:
    """`log.json` for the state of `size` leaves: inclusion of all that is placed, and how the log went on from
    `earlier`
    sizes, which auditors may have kept. Raises ValueError for a place or size outside the log."""
    leaves = [Proof(index, tuple(inclusion_proof(nodes, index, size))) for index in placed.indices]
    states = [Proof(one, tuple(consistency_proof(nodes, one, size)), root(nodes, one)) for one in sorted(set(earlier))]
    return log_json(leaves, placed.seal.decode(), states)


def log_json(leaves: Sequence[Proof], seal: str, earlier: Sequence[Proof]) -> bytes:
    """`log.json` in its one form: proofs of the events in their order, then of the seal; the seal; earlier states."""

    def plain(proofs: Sequence[Proof]) -> list[list[Any]]:
        return [[one.number, base64_of(one.root), *map(base64_of, one.path)] for one in proofs]

    return wrapped({"schema": LOG_SCHEMA, "leaves": plain(leaves), "earlier": plain(earlier), "seal": seal})


def archive(files: Mapping[str, bytes]) -> bytes:
    """The one zip of these files: sorted, stored, dated 1980-01-01, no attributes. The same bytes on every machine."""
    body: list[bytes] = []
    index, at = b"", 0
    for name, data in sorted(files.items()):
        fixed = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
        body += [b"PK\3\4", fixed, name.encode("ascii"), data]
        index += b"PK\1\2\x14\0" + fixed + struct.pack("<3H2I", 0, 0, 0, 0, at) + name.encode("ascii")
        at += 30 + len(name) + len(data)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(files), len(files), len(index), at, 0)
    return b"".join([*body, index, end])


def assemble(files: Mapping[str, bytes], *, statement: bytes, checkpoint: bytes, log: bytes) -> bytes:
    """The bundle, whose bytes follow from these. Raises Rejected when nobody could read it."""
    bundle = archive({**files, STATEMENT: statement, CHECKPOINT: checkpoint, LOG: log})
    read_bundle(bundle)
    return bundle


