"""A base whose projections are kept in 8 or 4 bits, by bitsandbytes: an optional extra."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

QUANTISATIONS = ("none", "int8", "nf4")


class QuantisationMissing(RuntimeError):
    """bitsandbytes is not installed."""


def quantisation_config(name: str, dtype: torch.dtype) -> Any | None:
    """What transformers loads a base with; None for `none`. Products are computed in `dtype`.

    Raises ValueError for another name, QuantisationMissing without the extra `quantised`.
    """
    if name not in QUANTISATIONS:
        raise ValueError(f"quantisation is {name!r}: it must be one of {', '.join(QUANTISATIONS)}")
    if name == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise QuantisationMissing(
            f"a base in {name} needs bitsandbytes, which is not installed: "
            "install the extra `quantised` (pip install 'grail-server[quantised]')"
        )
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
