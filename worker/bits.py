"""Masks on disk take one bit an entry instead of one byte.

Entries are taken in row-major order, eight to a byte, the first in the lowest bit (numpy's `bitorder="little"`); what
is left of the last byte is 0. The shape is kept beside the bytes, so that sizes that are no multiple of eight come
back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def pack(mask: torch.Tensor) -> torch.Tensor:
    """A boolean mask of any shape as bytes (ceil(entries / 8),). Raises TypeError for another kind of tensor."""
    if mask.dtype is not torch.bool:
        raise TypeError(f"only masks are packed to bits, this tensor holds {mask.dtype}")
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=None, bitorder="little"))


def unpack(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The mask of that shape, the inverse of `pack`. Raises ValueError when bytes and shape do not belong together."""
    entries = math.prod(shape)
    expected = (math.ceil(entries / 8),)
    if packed.dtype is not torch.uint8 or tuple(packed.shape) != expected:
        raise ValueError(f"a mask of shape {tuple(shape)} takes {expected[0]} bytes: the file holds another number")
    bits = np.unpackbits(packed.numpy(), count=entries, bitorder="little")
    return torch.from_numpy(bits.astype(np.bool_)).reshape(tuple(shape))
