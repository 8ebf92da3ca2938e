"""What a device reaches: products a second, bytes a second, memory. Data sheets, times a stated utilisation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

UTILISATION = 0.35
"""Share of the data sheet's dense bf16 rate that LoRA training of short examples is taken to reach on a GPU. Well-tuned
pre-training reaches 0.4-0.5 with long sequences; short ones reach less."""
BANDWIDTH_SHARE = 0.7
"""Share of the data sheet's memory bandwidth that reading all weights reaches."""
CORE_FLOP_PER_SECOND = 64e9
"""What training reaches on one x86-64 core with AVX-512: about a third of what a bf16 matrix product does."""
CPU_UTILISATION = {"bf16": 1 / 3, "fp32": 0.55}
"""Share of a plain matrix product's rate that training reaches on a processor, by precision."""
CPU_BANDWIDTH = 6e9
"""Bytes of weights a second in a pass: oneDNN lays a bf16 matrix out anew for each product, which costs several plain
readings of it. More cores do not make it faster."""
CPU_DISPATCH = 0.8e-3
"""Seconds a layer and forward pass that are not matrix products, however few tokens: the interpreter and some 70 small
operations. Seen in a profile of one token through the 135M model: 20 ms in 30 layers."""
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class Device:
    """`flop_per_second` is what training reaches, not the data sheet's peak. `dispatch_seconds` is what it takes to
    hand one layer's forward pass to the device: below that no pass gets, however little it computes. `eager`: attention
    keeps its (heads, T, T) weights, as the model is loaded on a processor."""

    name: str
    flop_per_second: float
    bytes_per_second: float
    memory: int | None
    dispatch_seconds: float
    eager: bool
    is_gpu: bool
    basis: str


def cpu(cores: int, memory: int | None = None) -> Device:
    """This many x86-64 cores."""
    return Device(
        "cpu", CORE_FLOP_PER_SECOND * cores, CPU_BANDWIDTH, memory, CPU_DISPATCH, True, False,
        f"{cores} cores at {CORE_FLOP_PER_SECOND / 1e9:g} GFLOP/s each in training",
    )  # fmt: skip


def _gpu(name: str, peak: float, bandwidth: float, gigabytes: int) -> Device:
    basis = f"{peak / 1e12:g} TFLOP/s dense bf16 and {bandwidth / 1e9:g} GB/s on the data sheet"
    return Device(
        name, peak * UTILISATION, bandwidth * BANDWIDTH_SHARE, gigabytes * GIGABYTE, 1.2e-3, False, True,
        f"{basis}, of which {UTILISATION:.0%} and {BANDWIDTH_SHARE:.0%} are taken to be reached",
    )  # fmt: skip


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        _gpu("a6000", 154.8e12, 768e9, 48),
        _gpu("l40s", 362e12, 864e9, 48),
        _gpu("a100-80", 312e12, 2039e9, 80),
        _gpu("h100", 989e12, 3350e9, 80),
    )
}
"""Data sheets of the SXM boards where there are several; rates without sparsity."""

KINDS = f"cpu, cpu:24GB, {', '.join(DEVICES)}, or cuda:48GB"


def device_named(text: str, cores: int, memory: int | None = None) -> Device:
    """A device by its name, with another amount of memory after a colon where that is given.

    `cuda:48GB` is a card of unknown make: it is taken to be as fast as the slowest of the table with at least as much
    memory, or as the slowest of all. `memory` is what this machine has, for `cpu`. Raises ValueError that lists the
    names.
    """
    name, _, amount = text.lower().partition(":")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*gb", amount)
    if amount and not found:
        raise ValueError(f"{text!r} names no amount of memory: write it as in cuda:48GB")
    given = int(float(found[1]) * GIGABYTE) if found else None
    if given == 0:
        raise ValueError(f"{text!r}: a device without memory holds nothing")
    if name == "cpu":
        return cpu(cores, given or memory)
    if name == "cuda" and given:
        as_large = [device for device in DEVICES.values() if (device.memory or 0) >= given]
        like = min(as_large or DEVICES.values(), key=lambda device: device.flop_per_second)
        return replace(like, name=text.lower(), memory=given, basis=f"taken for as fast as {like.name}: {like.basis}")
    if name not in DEVICES:
        raise ValueError(f"no device is called {text!r}: name one of {KINDS}")
    return replace(DEVICES[name], memory=given or DEVICES[name].memory)
