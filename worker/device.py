"""Pick a device, free it, and make an out-of-memory error a smaller micro-batch instead of a failed job."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from app.config import Settings
from grail.config import UnlearnConfig
from grail.model.quantised import QUANTISATIONS, quantisation_config

T = TypeVar("T")


class MemoryExhausted(MemoryError):
    """Even one example at a time does not fit the device."""


class WrongPlacement(ValueError):
    """The worker's environment names a placement of the base model that there is not."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the base model lies and in how many bits: what `grail.model.load.load_model` takes by these names."""

    device: str
    device_map: str | None = None
    quantisation: str = "none"


def placement() -> Placement:
    """What this worker's environment asks for: GRAIL_DEVICE, GRAIL_DEVICE_MAP, GRAIL_QUANTISATION.

    Raises WrongPlacement, QuantisationMissing.
    """
    device_map = os.environ.get("GRAIL_DEVICE_MAP", "")
    quantisation = os.environ.get("GRAIL_QUANTISATION", "none")
    if device_map not in ("", "auto"):
        raise WrongPlacement("GRAIL_DEVICE_MAP must be auto (all devices that there are) or not set (one device)")
    if quantisation not in QUANTISATIONS:
        raise WrongPlacement(f"GRAIL_QUANTISATION must be one of {', '.join(QUANTISATIONS)}")
    quantisation_config(quantisation, torch.float32)
    return Placement(pick_device(), device_map or None, quantisation)


def pick_device() -> str:
    """GRAIL_DEVICE if set, else cuda, mps or cpu, in this order."""
    chosen = os.environ.get("GRAIL_DEVICE")
    if chosen:
        return chosen
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def offered_bytes(settings: Settings) -> int:
    """Memory that this worker has for jobs: GRAIL_WORKER_MEMORY_BYTES, or all that its device has."""
    return settings.worker_memory_bytes or _memory_of(pick_device(), os.environ.get("GRAIL_DEVICE_MAP", ""))


@cache
def _memory_of(device: str, device_map: str) -> int:
    """Of one card, of all that are seen when the base is spread, else of this machine."""
    if not (device.startswith("cuda") and torch.cuda.is_available()):
        return machine_bytes(Path("/"))
    cards = range(torch.cuda.device_count()) if device_map else [torch.device(device).index or 0]
    return sum(torch.cuda.mem_get_info(card)[1] for card in cards)


def machine_bytes(root: Path) -> int:
    """Physical memory, or the container's share of it. `root` is where `sys` lies."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int((root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no limit is spelt `max`
        return physical


@cache
def set_imports_aside() -> None:
    """Leave what has been imported out of later collections: it lives as long as the process, and looking through its
    half a million objects took 0.4 s of each."""
    gc.collect()
    gc.freeze()


def free_device() -> None:
    """Give memory back to the system, between stages and after jobs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps freed blocks between live ones, up to three times what is in use here; other C libraries have no such
    # call and need none.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def out_of_memory(error: BaseException) -> bool:
    """True for torch's and the CPU allocator's ways of saying that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def with_smaller_batches(config: UnlearnConfig, compute: Callable[[UnlearnConfig], T]) -> T:
    """`compute(config)`; when memory runs out, again with half the micro-batch, down to 1; then, where
    `activation_checkpointing` is `auto`, from the beginning with it `on`. Raises MemoryExhausted."""
    asked = config.micro_batch
    while True:
        try:
            return compute(config)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if config.micro_batch > 1:
                config = replace(config, micro_batch=config.micro_batch // 2)
            elif config.activation_checkpointing == "auto":
                config = replace(config, micro_batch=asked, activation_checkpointing="on")
            else:
                raise MemoryExhausted(
                    "the job does not fit this device even one example at a time: use a larger device or shorter items"
                ) from None
        free_device()
