"""The estimate of a job as it is configured, and the choice of what fits a device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from grail.config import UnlearnConfig
from grail.plan.devices import Device
from grail.plan.memory import Layout, stage_bytes, weight_bytes
from grail.plan.seconds import Cost, stage_seconds
from grail.plan.shape import ModelShape, Workload

QUANTISATIONS = ("none", "int8", "nf4")
MOST_DEVICES = 64


@dataclass(frozen=True, slots=True)
class Estimate:
    """`stages` are the seconds of each stage, `seconds` their sum; `memory` bytes of each stage, part by part, on the
    fullest device, `bytes` the largest sum of them."""

    seconds: float
    bytes: int
    stages: Mapping[str, float]
    memory: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run with so that a job fits: micro-batch, layout, and whether it `fits` at all. `least_devices` is the
    smallest number of such devices that hold it in full precision with one example at a time (None: more than
    MOST_DEVICES)."""

    micro_batch: int
    layout: Layout
    fits: bool
    least_devices: int | None
    estimate: Estimate


def width(precision: str) -> int:
    """Bytes a weight: 4 in fp32, else 2."""
    return 4 if precision == "fp32" else 2


def effective(config: UnlearnConfig, *, bf16: bool) -> UnlearnConfig:
    """The same with what `auto` comes to where the device multiplies bf16 natively, or not (grail.model.load)."""
    return replace(config, precision="bf16" if bf16 else "fp32") if config.precision == "auto" else config


def estimate(
    shape: ModelShape,
    entries: int,
    load: Workload,
    config: UnlearnConfig,
    device: Device,
    layout: Layout | None = None,
) -> Estimate:
    """Seconds and bytes of a job as it is configured.

    Layers that lie on several devices are computed one device after the other: memory is divided, time is not. Raises
    ValueError when the device computes nothing.
    """
    if not device.flop_per_second > 0:
        raise ValueError(f"flop_per_second is {device.flop_per_second}: it must be above 0")
    where = layout or Layout(width(config.precision))
    length = load.scored_tokens / max(load.scored, 1)
    cost = Cost(shape, entries, length, load.completion_share, device, weight_bytes(shape, where), where.checkpointing)
    stages = stage_seconds(cost, load, config)
    memory = stage_bytes(shape, entries, load, config, device, where)
    peak = max(sum(parts.values()) for parts in memory.values())
    return Estimate(math.fsum(stages.values()), peak, stages, memory)


def plan(
    shape: ModelShape,
    entries: int,
    load: Workload,
    config: UnlearnConfig,
    device: Device,
    devices: int = 1,
    quantisation: str | None = None,
) -> Plan:
    """The first of the ways to run a job that fits `devices` devices: the micro-batch halved as the worker does it,
    then activation checkpointing, then a base of 8 and of 4 bits. With `quantisation` that base and no other.

    Where none fits, the last way is returned with `fits` False.
    """
    bases = QUANTISATIONS if quantisation is None else (quantisation,)
    found = None
    for way, changed in _ways(config, Layout(width(config.precision), devices=devices), bases):
        result = estimate(shape, entries, load, changed, device, way)
        fits = device.memory is None or result.bytes <= device.memory
        found = Plan(changed.micro_batch, way, fits, None, result)
        if fits:
            break
    assert found is not None  # noqa: S101  there is always a way to try
    return replace(found, least_devices=_least(shape, entries, load, config, device))


def _ways(config: UnlearnConfig, start: Layout, bases: tuple[str, ...]) -> Iterator[tuple[Layout, UnlearnConfig]]:
    """Layouts and settings, the least intrusive first."""
    for base in bases:
        for checkpointing in (False, True):
            way = replace(start, quantisation=base, checkpointing=checkpointing)
            for size in _halved(config.micro_batch):
                yield way, replace(config, micro_batch=size)


def _halved(size: int) -> Iterator[int]:
    """`size` and its halves down to 1."""
    while size > 1:
        yield size
        size //= 2
    yield 1


def _least(shape: ModelShape, entries: int, load: Workload, config: UnlearnConfig, device: Device) -> int | None:
    """Devices that hold the base in full precision, with checkpointing and one example at a time."""
    if device.memory is None:
        return 1
    single = replace(config, micro_batch=1)
    for count in range(1, MOST_DEVICES + 1):
        way = Layout(width(config.precision), checkpointing=True, devices=count)
        if estimate(shape, entries, load, single, device, way).bytes <= device.memory:
            return count
    return None
