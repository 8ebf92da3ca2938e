"""The log as its readers see it: proofs verify by the auditor's program, expired leaves say so, exports check out."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from app.audit_log import auditing, export
from app.audit_log.auditing import NotAnExport, Tree
from app.audit_log.checkpoints import issue_checkpoint
from app.audit_log.sequencing import number_all
from app.db import Database, transaction
from app.trust.keys import Ed25519Signer
from app.trust.verify import leaf_hash, open_checkpoint, parse_keys, verify_consistency, verify_inclusion
from tests.app.audit_log.oracle import leaf, tree_hash
from tests.app.audit_log.test_sequencing import add
from tests.app.service import Caller

SIGNER = Ed25519Signer.new("log.example.com")
LOG = "/v1/log"


def sign(db: Database) -> None:
    number_all(db)
    with transaction(db) as session:
        issue_checkpoint(session, [SIGNER], datetime.now(UTC))


@pytest.fixture
def grown(caller: Caller) -> Caller:
    """A log of keys that were made and 40 changes, signed, that has grown since."""
    add(caller.db, *range(40))
    sign(caller.db)
    add(caller.db, *range(40, 50))
    number_all(caller.db)
    return caller


def test_every_leaf_is_proved_to_the_signed_root_and_found_by_its_hash(grown: Caller) -> None:
    keys = parse_keys(grown.send("requester", "GET", f"{LOG}/keys").text)
    note = grown.send("requester", "GET", f"{LOG}/checkpoint")
    assert note.headers["content-type"] == "text/plain; charset=utf-8"
    head = open_checkpoint(note.content, keys)
    items = grown.call("officer", "GET", f"{LOG}/leaves?limit=200")["items"]
    leaves = [item["leaf"].encode() for item in items]
    assert head.root == tree_hash(leaves[: head.size])
    for item, found in zip(items[: head.size], leaves, strict=False):
        assert item["hash"] == leaf_hash(found).hex()
        proof = grown.call("requester", "GET", f"{LOG}/proofs/inclusion?leaf_hash={item['hash']}")
        assert (proof["position"], proof["size"], proof["leaf_hash"]) == (item["position"], head.size, item["hash"])
        path = [bytes.fromhex(step) for step in proof["hashes"]]
        verify_inclusion(item["position"], head.size, leaf_hash(found), path, head.root)
        assert proof["root"] == head.root.hex()


def test_the_signed_log_is_proved_to_go_on(grown: Caller) -> None:
    size = grown.call("requester", "GET", LOG)["checkpoint_size"]
    sign(grown.db)
    now = grown.call("requester", "GET", LOG)
    assert now["checkpoint_size"] == now["size"] > size
    proof = grown.call("requester", "GET", f"{LOG}/proofs/consistency?from={size}")
    assert (proof["from_size"], proof["to_size"]) == (size, now["size"])
    path = [bytes.fromhex(step) for step in proof["hashes"]]
    roots = [bytes.fromhex(proof[name]) for name in ("from_root", "to_root")]
    verify_consistency(size, roots[0], now["size"], roots[1], path)
    items = grown.call("officer", "GET", f"{LOG}/leaves?limit=200")["items"]
    leaves = [item["leaf"].encode() for item in items]
    assert roots == [tree_hash(leaves[:size]), tree_hash(leaves)]


def test_pages_of_leaves_follow_each_other(grown: Caller) -> None:
    start: int | None = 0
    seen: list[int] = []
    while start is not None:
        page = grown.call("admin", "GET", f"{LOG}/leaves?start={start}&limit=7")
        seen += [item["position"] for item in page["items"]]
        start = page["next_start"]
    assert seen == list(range(page["size"]))
    beyond = grown.call("admin", "GET", f"{LOG}/leaves?start=10000")
    assert (beyond["items"], beyond["next_start"]) == ([], None)


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ("proofs/inclusion", (422, "outside-log")),
        ("proofs/inclusion?position=1000", (404, "not-in-log")),
        ("proofs/inclusion?position=49", (422, "outside-log")),  # not signed yet
        ("proofs/inclusion?position=5&size=5", (422, "outside-log")),
        ("proofs/inclusion?position=5&size=1000", (422, "outside-log")),
        (f"proofs/inclusion?leaf_hash={'ab' * 32}", (404, "not-in-log")),
        (f"proofs/inclusion?leaf_hash={leaf_hash(leaf(7)).hex()}&position=1", (404, "not-in-log")),
        ("proofs/inclusion?leaf_hash=ab", (422, "unprocessable")),
        ("proofs/consistency?from=1000", (422, "outside-log")),
        ("proofs/consistency?from=5&to=4", (422, "outside-log")),
        ("proofs/consistency?from=5&to=1000", (422, "outside-log")),
        ("proofs/consistency", (422, "unprocessable")),
    ],
)
def test_what_the_log_does_not_hold_is_refused(grown: Caller, asked: str, refusal: tuple[int, str]) -> None:
    assert grown.refused("requester", "GET", f"{LOG}/{asked}") == refusal


def test_before_it_is_signed_there_is_neither_checkpoint_nor_key_but_proofs_for_a_size(caller: Caller) -> None:
    number_all(caller.db)
    for path in ("checkpoint", "keys", "proofs/inclusion?position=0", "proofs/consistency?from=1"):
        assert caller.refused("officer", "GET", f"{LOG}/{path}") == (404, "no-checkpoint-yet")
    assert caller.refused("officer", "GET", f"{LOG}/export") == (404, "no-checkpoint-yet")
    assert caller.call("requester", "GET", f"{LOG}/proofs/inclusion?position=0&size=2")["size"] == 2
    state = caller.call("requester", "GET", LOG)
    assert state == {"size": 5, "waiting": 0, "checkpoint_size": None, "checkpoint_at": None}


def expire(db: Database, upto: int) -> None:
    """What expiry leaves behind."""
    with transaction(db) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text("DELETE FROM audit WHERE id IN (SELECT audit_id FROM log_leaf WHERE position < :n)"), {"n": upto}
        )


def test_an_expired_leaf_says_so_and_is_still_proved(grown: Caller) -> None:
    before = grown.call("requester", "GET", f"{LOG}/proofs/inclusion?position=3")
    expire(grown.db, 10)
    items = grown.call("officer", "GET", f"{LOG}/leaves?limit=200")["items"]
    assert [(item["leaf"] is None, item["expired"]) for item in items[9:11]] == [(True, True), (False, False)]
    assert grown.call("requester", "GET", f"{LOG}/proofs/inclusion?position=3") == before
    found = auditing.audit(grown.db)
    assert (found.expired, found.faults) == (10, [])


def exported(caller: Caller) -> bytes:
    answer = caller.send("officer", "GET", f"{LOG}/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    return answer.content


def test_an_export_is_checked_without_the_service(grown: Caller) -> None:
    sign(grown.db)
    expire(grown.db, 5)
    whole = exported(grown)
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line.get("position") for line in lines[1:-2]] == list(range(lines[0]["size"]))
    assert len([line for line in lines[1:] if "checkpoint" in line]) == 2
    for keys in (None, parse_keys(SIGNER.vkey)):
        found = auditing.audit_file(io.BytesIO(whole), keys)
        assert (found.faults, found.leaves, found.expired, found.checkpoints) == ([], lines[0]["size"], 5, 2)
    other = auditing.audit_file(io.BytesIO(whole), parse_keys(Ed25519Signer.new("log.example.com").vkey))
    assert any("No given key signed" in fault for fault in other.faults)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.pop(12), "leaf 11 is missing"),
        (lambda lines: lines[12].update(leaf=lines[13]["leaf"]), "leaf 11 was changed"),
        (lambda lines: lines[12].update(hash="ab" * 32, leaf=None), "are not those that were signed"),
        (lambda lines: lines.insert(12, lines.pop(13)), "leaf 11 is missing"),
        (lambda lines: lines.pop(45), "and 44 are there"),
        (lambda lines: lines[0].update(root="ab" * 32), "head of the file"),
    ],
)
def test_a_changed_export_is_found_out(grown: Caller, change: Any, said: str) -> None:
    lines = [json.loads(line) for line in exported(grown).splitlines()]
    change(lines)
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    found = auditing.audit_file(io.BytesIO(raw))
    assert any(said in fault for fault in found.faults), found.faults


@pytest.mark.parametrize("raw", [b"", b"nothing", b"[]", b'{"format":"another"}', b'{"format":"grail-log-export-1"'])
def test_what_is_no_export_is_refused(raw: bytes) -> None:
    with pytest.raises(NotAnExport):
        auditing.audit_file(io.BytesIO(raw))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit SET leaf = '{}' WHERE id = (SELECT audit_id FROM log_leaf WHERE position = 20)",
         "leaf 20 was changed"),
        ("UPDATE log_leaf SET hash = sha256('x') WHERE position = 20", "leaf 20 was changed"),
        ("DELETE FROM log_leaf WHERE position = 20", "leaf 20 is missing"),
        ("UPDATE log_node SET hash = sha256('x') WHERE level = 5", "proofs do not verify"),
        ("UPDATE checkpoint SET note = overlay(note PLACING '46' FROM position('4' IN note))", "does not verify"),
        ("INSERT INTO audit (event, leaf) VALUES ('e', '{}')", "1 leaves of the trail neither"),
    ],
)  # fmt: skip
def test_what_was_changed_behind_the_services_back_is_found(grown: Caller, statement: str, said: str) -> None:
    assert auditing.audit(grown.db).faults == []
    with transaction(grown.db) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        assert session.execute(text(statement)).rowcount == 1  # type: ignore[attr-defined]
    found = auditing.audit(grown.db)
    assert any(said in fault for fault in found.faults), found.faults


def test_a_tree_that_keeps_its_edge_alone_has_the_roots_of_the_slow_one() -> None:
    tree, leaves = Tree(), [leaf(number) for number in range(70)]
    assert tree.root() == tree_hash([])
    for size, one in enumerate(leaves, 1):
        tree.add(leaf_hash(one))
        assert tree.root() == tree_hash(leaves[:size])


def test_an_export_takes_no_more_memory_for_a_larger_log(caller: Caller) -> None:
    """Twenty times as many leaves as are read at once."""
    for start in range(0, 10_000, 1000):
        add(caller.db, *range(start, start + 1000))
    sign(caller.db)
    head = export.head_line(caller.db)

    def peak(parts: Iterator[bytes]) -> tuple[int, int]:
        tracemalloc.start()
        length = sum(map(len, parts))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return length, most

    length, most = peak(export.lines(caller.db, head))
    assert length > 2_000_000
    assert most < length / 2
