"""A mask packed to bits comes back to the bit, whatever its shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.bits import pack, unpack


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 2**31), st.floats(0, 1))
def test_any_shape_comes_back(shape: list[int], seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < share
    packed = pack(mask)
    assert packed.dtype is torch.uint8
    assert packed.numel() == (mask.numel() + 7) // 8
    back = unpack(packed, shape)
    assert back.dtype is torch.bool
    assert torch.equal(back, mask)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_a_transposed_view_comes_back(rows: int, columns: int) -> None:
    mask = (torch.arange(rows * columns) % 3 == 0).reshape(columns, rows).T
    assert torch.equal(unpack(pack(mask), (rows, columns)), mask)


def test_the_first_entry_is_the_lowest_bit() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, False, True]])
    assert pack(mask).tolist() == [0b00000101, 0b1]


@pytest.mark.parametrize("shape", [(9,), (0,), (2, 3, 3)])
def test_bytes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bytes"):
        unpack(pack(torch.ones(8, dtype=torch.bool)), shape)


def test_what_is_no_mask_is_not_packed() -> None:
    with pytest.raises(TypeError, match="only masks"):
        pack(torch.zeros(3))
