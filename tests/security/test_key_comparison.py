"""Keys, signatures and fingerprints are compared in constant time, and a wrong one is looked at as a right one is."""

from __future__ import annotations

import ast
import hmac
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from app import auth
from app.auth import Role
from app.db import transaction
from app.keys.service import create_key
from tests.app.service import Floor, revoke

ROOT = Path(__file__).resolve().parents[2]
SECRETIVE = [
    "app/auth.py", "app/secret.py", "app/description.py", "app/keys", "app/idempotency", "app/opendsr",
    "app/webhooks/signing.py", "app/webhooks/messages.py",
]  # fmt: skip
"""Where secrets, and what is made of them, are handled."""
SECRET = re.compile(r"secret|hash|digest|fingerprint|signature|plaintext|password|token|mac$|master|credential", re.I)


def files() -> list[Path]:
    places = [ROOT / place for place in SECRETIVE]
    return sorted(file for place in places for file in ([place] if place.suffix else place.rglob("*.py")))


def named(node: ast.AST) -> set[str]:
    """Names in an expression that stand for something secret."""
    words = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    words |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return {word for word in words if SECRET.search(word)}


def compared(tree: ast.Module) -> list[tuple[int, set[str]]]:
    """Lines on which something secret is compared by an operator that stops at the first difference."""
    return [
        (node.lineno, found)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops)
        and (found := set().union(*(named(side) for side in (node.left, *node.comparators) if not bounded(side))))
    ]


def bounded(node: ast.AST) -> bool:
    """Whether it is the length of something, which is no secret."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"


def test_the_check_sees_a_comparison_that_it_should() -> None:
    assert compared(ast.parse("row.hash == hash_key(plaintext)")) == [(1, {"hash", "hash_key", "plaintext"})]
    assert compared(ast.parse("if len(secret) < 32 and hmac.compare_digest(a.hash, b): pass")) == []


def test_nothing_secret_is_compared_by_an_operator() -> None:
    assert len(files()) >= 15
    found = {str(path.relative_to(ROOT)): compared(ast.parse(path.read_text())) for path in files()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def asked_for(floor: Floor, plaintext: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What a call with this key asks the database and compares, and its whole answer."""
    heard: list[str] = []
    engine = floor.caller.client.app.state.db.engine  # type: ignore[attr-defined]

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    lengths: list[tuple[int, int]] = []

    def compare(one: str, other: str) -> bool:
        lengths.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    event.listen(engine, "before_cursor_execute", hear)
    monkeypatch.setattr(auth, "hmac", Watched)
    try:
        answer = floor.caller.client.get("/v1/models", headers={"Authorization": f"Bearer {plaintext}"})
    finally:
        event.remove(engine, "before_cursor_execute", hear)
        monkeypatch.undo()
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, headers, heard, lengths


def test_an_unknown_prefix_a_wrong_secret_and_a_revoked_key_go_the_same_way(
    shared: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(shared.db) as session:
        _, gone = create_key(session, "leaver", Role.ADMIN)
    revoke(shared.db, gone)
    right = shared.caller.keys["admin"]
    other = shared.caller.keys["operator"]
    wrong = {
        "unknown prefix": "grail_00000000_" + right.split("_", 2)[2],
        "wrong secret": right[:-1] + ("a" if right[-1] != "a" else "b"),
        "longer secret": right + "x" * 1000,
        "one letter": right[:15] + "x",
        "another's secret": f"{right[:15]}{other[15:]}",
        "revoked": gone,
        "revoked with another secret": gone[:-1] + ("a" if gone[-1] != "a" else "b"),
    }
    ways = {name: asked_for(shared, plaintext, monkeypatch) for name, plaintext in wrong.items()}
    first = ways["unknown prefix"]
    assert first[0] == 401 and len(first[3]) == 1 and first[4] == [(64, 64)]
    for name, way in ways.items():
        assert way == first, name
