"""Small safetensors files made by hand: a base model of one layer, adapters for it, and their damaged kin."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fixtures.served import SHAPE, write_base

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F64": 8}
Shapes = Mapping[str, tuple[int, ...]]

BASE: Shapes = {
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (10, 8),
}
LAYER = "base_model.model.model.layers.0.self_attn"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"],
}  # fmt: skip


def lora(rank: int = 2) -> dict[str, tuple[int, ...]]:
    """The tensors of an adapter of that rank on both projections."""
    return {
        f"{LAYER}.q_proj.lora_A.weight": (rank, 8),
        f"{LAYER}.q_proj.lora_B.weight": (8, rank),
        f"{LAYER}.v_proj.lora_A.weight": (rank, 8),
        f"{LAYER}.v_proj.lora_B.weight": (4, rank),
    }


def entries(shapes: Shapes, dtype: str = "F32") -> dict[str, dict[str, Any]]:
    """A header's entries, one tensor after the other."""
    found: dict[str, dict[str, Any]] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * BYTES[dtype]
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return found


def packed(header: Any, data_bytes: int, *, fill: bytes = b"\x3c") -> bytes:
    """A file of that header and so many bytes of data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + fill * data_bytes


def weights(shapes: Shapes, dtype: str = "F32", *, fill: bytes = b"\x3c") -> bytes:
    """A whole file."""
    return packed(entries(shapes, dtype), sum(math.prod(s) for s in shapes.values()) * BYTES[dtype], fill=fill)


def base_model(directory: Path, **config: Any) -> Path:
    """A base model with weights, configuration and tokenizer."""
    write_base(directory)
    described = {**SHAPE, "max_position_embeddings": 64, **config}
    (directory / "config.json").write_text(json.dumps(described), encoding="utf-8")
    (directory / "model.safetensors").write_bytes(weights(BASE))
    return directory


def adapter(directory: Path, shapes: Shapes | None = None, *, fill: bytes = b"\x3c", **config: Any) -> Path:
    """A PEFT directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    (directory / "adapter_model.safetensors").write_bytes(weights(lora() if shapes is None else shapes, fill=fill))
    return directory
