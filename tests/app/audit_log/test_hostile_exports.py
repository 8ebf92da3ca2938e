"""Whatever comes as an export of the log, faults are told or it is said to be none."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.audit_log.auditing import NotAnExport, audit_file
from app.audit_log.export import FORMAT
from app.trust.verify import leaf_hash
from tests.app.trust.evidence import SIGNER, evidence
from tests.app.trust.test_hostile_evidence import ODD_VALUES, mutated


def lines() -> list[Any]:
    """A whole export: its head, leaves, and a checkpoint from before."""
    made = evidence(4)
    note = made.files["checkpoint"].decode()
    root = note.split("\n")[2]
    head = {"format": FORMAT, "origin": SIGNER.name, "size": len(made.leaves), "root": base64.b64decode(root).hex(),
            "checkpoint": note, "keys": SIGNER.vkey}  # fmt: skip
    leaves = [
        {"position": at, "hash": leaf_hash(leaf).hex(), "leaf": leaf.decode()} for at, leaf in enumerate(made.leaves)
    ]
    return [head, *leaves, {"checkpoint": made.kept.decode()}]


def written(found: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in found)


def faults(raw: bytes) -> list[str]:
    """What is told, if it is an export at all."""
    try:
        return audit_file(io.BytesIO(raw)).faults
    except NotAnExport as error:
        return [str(error.detail)]


def test_a_whole_export_has_no_faults() -> None:
    assert faults(written(lines())) == []


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_export_or_none(data: st.DataObject) -> None:
    faults(mutated(data, written(lines())))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_in_a_line_is_told_or_makes_no_difference(data: st.DataObject) -> None:
    found = lines()
    line = found[data.draw(st.integers(0, len(found) - 1))]
    name = data.draw(st.sampled_from([*sorted(line), "more"]))
    if data.draw(st.booleans()):
        line[name] = data.draw(st.sampled_from(ODD_VALUES))
    else:
        line.pop(name, None)
    told = faults(written(found))
    same = found == lines()
    if name in ("hash", "position", "format", "root", "size") and line is not found[-1]:
        assert told or same
