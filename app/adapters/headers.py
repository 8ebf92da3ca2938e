"""Safetensors headers, read without the learning stack: names, shapes, types, and whether the file is whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Unprocessable

HEADER_MAX_BYTES = 16 * 1024 * 1024
"""Some hundred bytes a tensor: room for a hundred thousand of them in one file."""
MOST, DIGITS = 2**63 - 1, 19
"""Entries and bytes that one tensor may have: what the library that loads it can count."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F32": 32, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64,
}  # fmt: skip
"""Bits of one entry of every type that the format knows."""


class BrokenFile(Unprocessable):
    """A weights file that is cut off or malformed."""

    type = "broken-weights"
    title = "A weights file is damaged"
    mend = "Write the file again from its source; compare its SHA-256."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header has it."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of one file, checked against the file's length: the tensors' bytes follow each other without gap or
    overlap up to the file's end. Raises BrokenFile."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(HEADER_MAX_BYTES, size - 8):
            raise BrokenFile(f"{path.name} is not a whole safetensors file: its header is cut off or malformed")
        raw = file.read(length)
    try:
        entries = json.loads(raw, parse_int=_short, object_pairs_hook=_distinct)
        if not isinstance(entries, dict):
            raise TypeError("no JSON object")
        entries.pop("__metadata__", None)
        spans = {name: _span(entry["data_offsets"]) for name, entry in entries.items()}
        found = {name: _tensor(entry, spans[name]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BrokenFile(f"{path.name} has a malformed safetensors header") from None
    promised = 8 + length + _whole(path, spans.values())
    if promised != size:
        raise BrokenFile(f"{path.name} has {size} bytes, its header promises {promised}")
    return found


def _short(digits: str) -> int:
    """A number of a header. Raises ValueError for one that no size can be, before it is computed with."""
    if len(digits) > DIGITS:
        raise ValueError("too long a number")
    return int(digits)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a header. Raises ValueError when a name stands twice: readers differ in which of the two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _natural(value: Any) -> int:
    """A whole number of at least 0. Raises TypeError."""
    if type(value) is not int or value < 0:
        raise TypeError("not a natural number")
    return value


def _span(offsets: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end. Raises TypeError, ValueError."""
    begin, end = offsets
    return _natural(begin), _natural(end)


def _tensor(entry: Mapping[str, Any], span: tuple[int, int]) -> TensorInfo:
    """Raises KeyError for an unknown type, ValueError when the bytes are more or fewer than the shape needs."""
    shape = tuple(_natural(value) for value in entry["shape"])
    entries = 1
    for length in shape:
        entries *= length
        if entries > MOST:
            raise ValueError("more entries than anybody can count")
    if 8 * (span[1] - span[0]) != entries * BITS[entry["dtype"]]:
        raise ValueError("another length than the shape needs")
    return TensorInfo(entry["dtype"], shape)


def _whole(path: Path, spans: Iterable[tuple[int, int]]) -> int:
    """Where the last tensor ends. Raises BrokenFile when one does not begin where the one before ends."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise BrokenFile(f"{path.name}: its tensors leave a gap or overlap at byte {min(begin, at)} of the data")
        at = end
    return at


def read_model_headers(directory: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model directory, from one file or from the shards. Raises BrokenFile."""
    files = weight_files(directory)
    if not files:
        raise Unprocessable(
            f"{directory.name} holds no .safetensors weights", mend="Convert the weights to safetensors."
        )
    found: dict[str, TensorInfo] = {}
    for path in files:
        found |= read_header(path)
    return found


def weight_files(directory: Path) -> list[Path]:
    """The weights of a model directory, in a fixed order."""
    return sorted(directory.glob("*.safetensors"))
