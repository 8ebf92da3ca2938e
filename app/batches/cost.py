"""What a batch would cost: sizes of base and adapter from their configuration files, then arithmetic."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.batches.schemas import CostEstimate
from grail.config import UnlearnConfig
from grail.plan import Layout, ModelShape, Workload, cpu, estimate, width

MAX_CONFIG_BYTES = 1_000_000
"""Larger files are no model configuration."""


def cost(
    base_model_path: str, adapter_directory: str, load: Workload, config: UnlearnConfig, flop_per_second: float | None
) -> CostEstimate | None:
    """The estimate, or None when the files are away or describe another kind of model.

    Without `flop_per_second` the device is taken to be this machine's processor.
    """
    sizes = _sizes(base_model_path, adapter_directory)
    if sizes is None:
        return None
    shape, entries = sizes
    device = cpu(os.cpu_count() or 1)
    if flop_per_second is not None:
        device = replace(device, flop_per_second=flop_per_second)
    result = estimate(shape, entries, load, config, device)
    return CostEstimate(seconds=result.seconds, bytes=result.bytes, stages=dict(result.stages))


def least_bytes(base_model_path: str, adapter_directory: str, load: Workload, config: UnlearnConfig) -> int | None:
    """Memory of the job's largest stage in the leanest way to which a worker falls back by itself: one example at a
    time, and layers computed twice where the settings allow it. None when the files are away or of another kind.

    Taken for a processor with the base in full width, as the policy's precision has it; a worker that quantises the
    base takes less.
    """
    sizes = _sizes(base_model_path, adapter_directory)
    if sizes is None:
        return None
    layout = Layout(width(config.precision), checkpointing=config.activation_checkpointing != "off")
    return estimate(*sizes, load, replace(config, micro_batch=1), cpu(1), layout).bytes


def _sizes(base_model_path: str, adapter_directory: str) -> tuple[ModelShape, int] | None:
    """The base's sizes and the adapter's entries, or None when the files are away or describe another kind of model."""
    try:
        shape = ModelShape.from_config(_read(Path(base_model_path) / "config.json"))
        adapter = _read(Path(adapter_directory) / "adapter_config.json")
        return shape, shape.adapter_entries(int(adapter["r"]), adapter.get("target_modules"))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _read(path: Path) -> dict[str, Any]:
    """A bounded JSON object."""
    with path.open("rb") as file:
        content = json.loads(file.read(MAX_CONFIG_BYTES))
    if not isinstance(content, dict):
        raise TypeError("no JSON object")
    return content
