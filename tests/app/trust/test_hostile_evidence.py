"""Whatever comes as evidence, only named answers come out, within memory that its size bounds."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adapters.headers import BrokenFile, read_header
from app.trust import verify as standalone
from app.trust.bundle import archive
from app.trust.dsse import sign_statement
from app.trust.verify import (
    CODES,
    YES,
    Rejected,
    read_bundle,
    verify,
    verify_consistency,
    verify_inclusion,
)
from tests.app.trust.evidence import SIGNER, evidence

NUMBERS = st.one_of(st.integers(-2, 40), st.integers(-(2**70), 2**70))
HASHES = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
ODD_VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, -0.0, "", "x", "\ud800", [], [[]], {}, {"a": {}}, "after",
    ["retain"],
]  # fmt: skip


def mutated(data: st.DataObject, raw: bytes) -> bytes:
    """A byte flipped, something cut out, put in, or said twice; sometimes nothing of it left."""
    kind = data.draw(st.sampled_from(["flip", "splice", "again", "other"]))
    at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    if kind == "flip" and at < len(raw):
        return raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    if kind == "again":
        return raw[:end] + raw[at:end][:200] + raw[end:]
    if kind == "other":
        return data.draw(st.binary(max_size=400))
    return raw[:at] + data.draw(st.binary(max_size=40)) + raw[end:]


def answers(raw: bytes, since: bytes | None = None) -> set[str]:
    """Kinds of the answers to every question that could be asked."""
    found = verify(raw, SIGNER.vkey, None, since)
    assert [one.question for one in found] == list(YES)
    assert all((one.kind in CODES) == (one.ok is False) for one in found)
    return {one.kind for one in found if one.kind}


@given(index=NUMBERS, size=NUMBERS, leaf=HASHES, path=st.lists(HASHES, max_size=70), root=HASHES)
@settings(max_examples=300, deadline=None)
def test_any_proof_holds_or_is_refused_by_name(
    index: int, size: int, leaf: bytes, path: list[bytes], root: bytes
) -> None:
    for kind, prove in (
        ("not-in-log", lambda: verify_inclusion(index, size, leaf, path, root)),
        ("log-forked", lambda: verify_consistency(index, leaf, size, root, path)),
    ):
        try:
            prove()
        except Rejected as error:
            assert error.kind == kind
        else:
            empty = hashlib.sha256().digest()
            assert (index, leaf) == (0, empty) or leaf == root, "made up, and holds"


@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_any_bytes_as_a_bundle_or_as_a_file_of_one_give_named_answers(data: st.DataObject) -> None:
    made = evidence(4)
    if data.draw(st.booleans()):
        raw = mutated(data, made.bundle)
        assert answers(raw) or raw == made.bundle
        return
    name = data.draw(st.sampled_from(sorted(made.files)))
    changed = mutated(data, made.files[name])
    raw = archive({**made.files, name: changed})
    assert answers(raw) or changed == made.files[name], f"{name} was changed unseen"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_as_the_checkpoint_that_was_kept_give_named_answers(data: st.DataObject) -> None:
    made = evidence(4)
    since = mutated(data, made.kept)
    assert answers(made.bundle, since) <= {
        "checkpoint-malformed", "unknown-key", "bad-signature", "key-refused", "other-log", "no-consistency-proof",
    }  # fmt: skip


@cache
def places(name: str) -> list[tuple[Any, ...]]:
    """Where values stand in a JSON file of a bundle."""
    found: list[tuple[Any, ...]] = []

    def walk(value: Any, at: tuple[Any, ...]) -> None:
        found.append(at)
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            walk(value[key], (*at, key))

    walk(content(name), ())
    return found[1:]


def content(name: str) -> Any:
    """A JSON file of the bundle, or what is signed of it."""
    raw = evidence(4).files[name]
    return json.loads(standalone.unbase64(json.loads(raw)["payload"]) if name == "statement.json" else raw)


@pytest.mark.parametrize("name", ["report.json", "scores.json", "statement.json", "adapter/new.json", "events.jsonl"])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_whatever_an_issuer_signs_gives_named_answers(name: str, data: st.DataObject) -> None:
    """Values of another kind anywhere, under a signature that holds: `not-sealed` at the least."""
    files, odd = dict(evidence(4).files), data.draw(st.sampled_from(ODD_VALUES))
    statement = content("statement.json")
    if name == "events.jsonl":
        files[name] = mutated(data, files[name])
    else:
        value = statement if name == "statement.json" else content(name)
        *path, last = data.draw(st.sampled_from(places(name)))
        at = value
        for key in path:
            at = at[key]
        at[last] = odd
        files[name] = json.dumps(value).encode()
    if name != "statement.json":
        for one in statement["subject"]:
            one["digest"]["sha256"] = hashlib.sha256(files[one["name"]]).hexdigest()
    try:
        files["statement.json"] = sign_statement(statement, [SIGNER])
    except (ValueError, RecursionError):
        return  # canonical JSON does not hold it
    signed = standalone.unbase64(json.loads(files["statement.json"])["payload"])
    same = signed == standalone.unbase64(json.loads(evidence(4).files["statement.json"])["payload"])
    assert answers(archive(files)) or same


def peak_of(read: Callable[[], object]) -> int:
    """The most bytes that were held while it was refused."""
    tracemalloc.start()
    try:
        with pytest.raises((Rejected, BrokenFile)):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sizes_that_a_bundle_merely_claims_take_no_memory() -> None:
    name = b"report.json"
    claimed = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 0) + name
    assert peak_of(lambda: read_bundle(claimed)) < 100_000
    assert peak_of(lambda: read_bundle(claimed * 60)) < 100_000
    many = archive({f"f{n:02}": b"x" * 100_000 for n in range(60)})
    assert peak_of(lambda: read_bundle(many)) < 3 * len(many)


def weights(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


HEADER = json.dumps(
    {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
     "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}
).encode()  # fmt: skip


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_any_bytes_as_a_weights_file_are_read_or_refused_by_name(data: st.DataObject, tmp_path_factory: Any) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "hostile.safetensors"
    whole = weights(HEADER, b"\0" * 26)
    path.write_bytes(whole)
    assert set(read_header(path)) == {"a", "b"}
    if data.draw(st.booleans()):
        path.write_bytes(mutated(data, whole))
    else:
        value = json.loads(HEADER)
        one = value[data.draw(st.sampled_from(["a", "b"]))]
        one[data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = data.draw(
            st.sampled_from([*ODD_VALUES, [2**63, 0], [0, 24], [24, 0], [0, 10**30]])
        )
        path.write_bytes(weights(json.dumps(value).encode(), b"\0" * 26))
    try:
        found = read_header(path)
    except BrokenFile:
        return
    assert all(isinstance(name, str) and all(n >= 0 for n in one.shape) for name, one in found.items())


@pytest.mark.parametrize(
    "header", [b"[" * 200_000, b'{"a":' * 100_000, b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}", b"{}" * 9]
)
def test_deep_long_and_endless_headers_are_refused_within_bounds(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights(header))
    assert peak_of(lambda: read_header(path)) < 20 * len(header) + 1_000_000
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert peak_of(lambda: read_header(path)) < 1_000_000
