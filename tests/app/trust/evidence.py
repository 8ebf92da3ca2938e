"""A small log, keys and a whole bundle over a real report document; and the RFC's trees, written as it says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.trust.bundle import Placed, assemble, blinded_report, contents, digests, prove, scores_of, seal_fields
from app.trust.canonical import canonical
from app.trust.checkpoint import Head, sign_checkpoint
from app.trust.dsse import sign_statement
from app.trust.keys import Ed25519Signer
from app.trust.merkle import MemoryNodes, append, leaf_hash, root
from app.trust.statement import about_report
from app.trust.verify import read_bundle
from grail.config import GateConfig
from grail.evaluate import compare
from grail.gate import decide
from grail.metrics.base import ExampleScore
from grail.types import Example, Role, Segment
from tests.grail.test_report import make_document

ORIGIN = "log.example/grail"
AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
SIGNER = Ed25519Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"k" * 32))
OTHER = Ed25519Signer.new("other.example/log")
EARLIER = 5
WEIGHTS = {"adapter_config.json": b'{"r": 4}', "adapter_model.safetensors": b"\x08\0\0\0\0\0\0\0{}      weights"}


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1: PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    """RFC 6962, 2.1.2: SUBPROOF(m, D[n], b)."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def tree(leaves: list[bytes]) -> MemoryNodes:
    nodes = MemoryNodes()
    append(nodes, 0, [leaf_hash(leaf) for leaf in leaves])
    return nodes


def manifest(version: int, parent: str | None) -> bytes:
    files = [
        {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in sorted(WEIGHTS.items())
    ]
    base = f"{version:064x}"
    made = {"schema": "grail.adapter/1", "base_model_digest": base, "files": files, "parent": parent}
    digest = hashlib.sha256(canonical({"base": base, "files": files})).hexdigest()
    return json.dumps({**made, "digest": digest}, indent=2, sort_keys=True).encode() + b"\n"


def values(number: int, base: float, *, fact: bool) -> ExampleScore:
    wobble = (number * 7919 % 997) / 9970
    return ExampleScore(base - wobble, 2.0 + wobble, 50.0 + wobble, 40.0 + wobble, fact, "")


@cache
def document(subjects: int = 12) -> str:
    """A report as the pipeline writes it: two domains, every group, requests of their own, intervals."""
    examples = []
    for domain in ("copyright", "privacy"):
        others = [(Segment.FORGET, role) for role in Role if role is not Role.ITEM]
        for segment, role in [*((segment, Role.ITEM) for segment in Segment), *others]:
            for n in range(subjects):
                key = f"{domain}-{segment}-{role}-{n:03}"
                parent = f"{domain}-forget-item-{n:03}" if role is Role.PARAPHRASE else None
                request = "req-1" if n < 3 else "req-2" if n == 3 else None
                name = f"subject {n % (subjects - 1)}"
                examples.append(Example(key, domain, segment, name, "ask", "say", role, (), parent, request))
    kept = {e.id: e.segment is Segment.RETAIN for e in examples}
    before = {e.id: values(n, 1.0, fact=True) for n, e in enumerate(examples)}
    after = {e.id: values(n, 1.0 if kept[e.id] else 0.5, fact=False) for n, e in enumerate(examples)}
    reference = {e.id: values(n, 0.52, fact=False) for n, e in enumerate(examples)}
    gate = GateConfig()
    result = compare(examples, before, after, reference, gate, held_out={"privacy-retain-item-000"})
    model = {
        "base_path_name": "tiny", "base_digest": "bb", "note": None, "reference": "adapter off",
        "start_adapter": {"version": 1, "name": "m-1", "digest": json.loads(manifest(1, None))["digest"]},
        "candidate_adapter": {"version": 2, "name": "m-2", "digest": json.loads(manifest(2, "x"))["digest"]},
    }  # fmt: skip
    times = {"domain": "privacy", "received_at": "2026-01-01T00:00:00Z", "due_at": None, "legal_basis": None}
    requests = [{"id": name, **times} for name in ("req-1", "req-2")]
    made = make_document(result, requests=requests, model=model, verdict=decide(result, gate))
    return canonical(made).decode()


@dataclass(frozen=True)
class Evidence:
    """A bundle, and what was kept of the log before."""

    bundle: bytes
    files: dict[str, bytes]
    leaves: list[bytes]
    nodes: MemoryNodes
    kept: bytes
    document: dict[str, Any]


@cache
def evidence(subjects: int = 12, signer: Ed25519Signer = SIGNER, at: datetime = AT) -> Evidence:
    """Everything, from the document to the bundle."""
    report = document(subjects).encode()
    parsed = json.loads(report)
    scores = scores_of(parsed, b"s" * 32, {"privacy-retain-item-000"}, {"req-1", "req-2"})
    chain = [canonical({"event": "request.received", "fields": {}, "id": f"e{n}"}) for n in range(3)]
    new, old = manifest(2, "x"), manifest(1, None)
    shown = canonical(blinded_report(parsed, b"s" * 32))
    files = contents(report=shown, scores=scores, events=chain, new=new, old=old, pdf=b"%PDF")
    statement = about_report(digests(files), report_id="r", job_id="job-1", log=signer.name, at=at)
    seal = canonical({"event": "report.sealed", "fields": seal_fields(canonical(statement), shown), "id": "s"})
    leaves = [b"a", chain[0], b"b", chain[1], b"c", chain[2], b"d", seal, b"e", b"f", b"g"]
    nodes = tree(leaves)
    head = Head(signer.name, len(leaves), root(nodes, len(leaves)))
    kept = sign_checkpoint(Head(signer.name, EARLIER, root(nodes, EARLIER)), [signer])
    made = assemble(
        files,
        statement=sign_statement(statement, [signer]),
        checkpoint=sign_checkpoint(head, [signer]),
        log=prove(nodes, len(leaves), Placed((1, 3, 5, 7), seal), [EARLIER, 8]),
    )
    return Evidence(made, read_bundle(made), leaves, nodes, kept, parsed)
