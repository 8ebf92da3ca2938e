"""Safetensors headers, read without the learning stack: names, shapes, types, and whether the file is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Unprocessable

HEADER_MAX_BYTES = 64 * 1024 * 1024
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


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
    """Every tensor of one file, checked against the file's length. Raises BrokenFile."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(HEADER_MAX_BYTES, size - 8):
            raise BrokenFile(f"{path.name} is not a whole safetensors file: its header is cut off or malformed")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        found = {name: _tensor(path, name, entry) for name, entry in entries.items()}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise BrokenFile(f"{path.name} has a malformed safetensors header") from None
    if 8 + length + max(ends, default=0) != size:
        raise BrokenFile(f"{path.name} has {size} bytes, its header promises {8 + length + max(ends, default=0)}")
    return found


def _tensor(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    shape = tuple(int(value) for value in entry["shape"])
    begin, end = entry["data_offsets"]
    count = 1
    for value in shape:
        count *= value
    if end - begin != count * SIZES.get(entry["dtype"], 1):
        raise BrokenFile(f"{path.name}: the tensor {name} has another length than its shape needs")
    return TensorInfo(entry["dtype"], shape)


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
