"""Safetensors headers: whole files are read, everything else is refused, and never with another error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from app.adapters.headers import BrokenFile, TensorInfo, read_header, read_model_headers
from app.errors import Unprocessable
from tests.app.weights import entries, packed, weights

SHAPES = {"a": (2, 3), "b": (4,)}
WHOLE = weights(SHAPES)


def read(directory: Path, data: bytes) -> dict[str, TensorInfo]:
    path = directory / "model.safetensors"
    path.write_bytes(data)
    return read_header(path)


def changed(name: str, **fields: Any) -> dict[str, Any]:
    """The header with some fields of one tensor changed."""
    header = entries(SHAPES)
    header[name] |= fields
    return header


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64", "I8"])
def test_a_whole_file_is_read(tmp_path: Path, dtype: str) -> None:
    assert read(tmp_path, weights(SHAPES, dtype)) == {
        "a": TensorInfo(dtype, (2, 3)),
        "b": TensorInfo(dtype, (4,)),
    }


def test_metadata_empty_tensors_scalars_and_any_order_are_read(tmp_path: Path) -> None:
    header = {
        "z": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]},
        "__metadata__": {"format": "pt"},
        "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    assert {name: info.shape for name, info in read(tmp_path, packed(header, 8)).items()} == {
        "z": (), "none": (0, 7), "a": (1,),
    }  # fmt: skip
    assert read(tmp_path, packed({}, 0)) == {}


def test_any_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(BrokenFile):
            read(tmp_path, WHOLE[:length])


BROKEN: dict[str, bytes] = {
    "bytes too many": WHOLE + b"\0",
    "a header longer than the file": (2**63).to_bytes(8, "little") + WHOLE[8:],
    "a header longer than any": packed(entries(SHAPES), 40)[:8].replace(b"\0\0", b"\xff\xff") + WHOLE[8:],
    "no JSON": packed(b"garbage!", 40),
    "no UTF-8": packed(b'{"\xff": 1}', 40),
    "a list": packed([["a", entries(SHAPES)["a"]]], 24),
    "a number": packed(b"42", 40),
    "nested without end": packed(b"[" * 200_000, 40),
    "an entry that is no object": packed({"a": 1}, 40),
    "no shape": packed({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4),
    "no type": packed({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4),
    "no offsets": packed({"a": {"dtype": "F32", "shape": [1]}}, 4),
    "an unknown type": packed(changed("a", dtype="F31"), 40),
    "a type that is a list": packed(changed("a", dtype=["F32"]), 40),
    "another shape": packed(changed("a", shape=[3, 3]), 40),
    "a negative shape": packed(changed("a", shape=[-2, -3]), 40),
    "a shape of floats": packed(changed("a", shape=[2.0, 3.0]), 40),
    "a shape of booleans": packed({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, 4),
    "a shape of words": packed(changed("a", shape=["2", "3"]), 40),
    "offsets as words": packed(changed("a", data_offsets=["0", "24"]), 40),
    "offsets as floats": packed(changed("a", data_offsets=[0.0, 24.0]), 40),
    "three offsets": packed(changed("a", data_offsets=[0, 24, 24]), 40),
    "offsets the wrong way round": packed(changed("a", data_offsets=[24, 0]), 40),
    "negative offsets": packed(changed("a", data_offsets=[-24, 0]), 40),
    "tensors that overlap": packed(changed("b", data_offsets=[8, 24]), 24),
    "a gap between tensors": packed(changed("b", data_offsets=[28, 44]), 44),
    "a gap before the first": packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8),
    "an infinite shape": packed(b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}', 4),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BrokenFile, match=r"model\.safetensors"):
        read(tmp_path, data)


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_taken_here_is_taken_by_the_library_that_loads_it(tmp_path: Path, data: st.DataObject) -> None:
    """The worker loads with safetensors itself: what it would refuse must be refused when it comes in."""
    header = json.dumps(entries(SHAPES)).encode()
    where = data.draw(st.integers(0, len(header) - 1))
    with_what = data.draw(st.sampled_from([b"0", b"9", b"-", b"]", b'"', b" ", b"F", b"1", b"\xff", b"e"]))
    broken = header[:where] + with_what + header[where + 1 :]
    content = packed(broken, 40)
    try:
        read(tmp_path, content)
    except BrokenFile:
        return
    try:
        deserialize(content)
    except SafetensorError as error:
        raise AssertionError(f"taken, but the library says {error}") from None


def test_a_model_is_read_from_all_of_its_shards(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(weights({"a": (1,)}))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(weights({"b": (2,)}))
    assert set(read_model_headers(tmp_path)) == {"a", "b"}
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(weights({"b": (2,)})[:-1])
    with pytest.raises(BrokenFile, match="00002-of-00002"):
        read_model_headers(tmp_path)


def test_a_model_without_safetensors_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Unprocessable) as caught:
        read_model_headers(tmp_path)
    assert "safetensors" in caught.value.how_to_mend
