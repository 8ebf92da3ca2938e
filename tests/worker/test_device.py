"""Out of memory becomes a smaller micro-batch, down to one, then a word for people."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.config import Settings
from grail.config import UnlearnConfig
from worker import device
from worker.device import (
    MemoryExhausted,
    Placement,
    WrongPlacement,
    free_device,
    machine_bytes,
    offered_bytes,
    out_of_memory,
    pick_device,
    placement,
    with_smaller_batches,
)

SHORT: list[Callable[[], BaseException]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError,
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", SHORT)
def test_the_micro_batch_is_halved_until_it_fits(error: Callable[[], BaseException]) -> None:
    tried: list[int] = []

    def compute(config: UnlearnConfig) -> str:
        tried.append(config.micro_batch)
        if config.micro_batch > 3:
            raise error()
        return "done"

    config = UnlearnConfig(micro_batch=16, seed=9)
    assert with_smaller_batches(config, compute) == "done"
    assert tried == [16, 8, 4, 2]


def test_nothing_but_the_micro_batch_changes() -> None:
    seen: list[dict[str, Any]] = []

    def compute(config: UnlearnConfig) -> None:
        seen.append(config.as_dict())
        if len(seen) == 1:
            raise MemoryError

    with_smaller_batches(UnlearnConfig(micro_batch=7, seed=9), compute)
    first, second = seen
    assert (first.pop("micro_batch"), second.pop("micro_batch")) == (7, 3)
    assert first == second


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library gives memory back by itself")
def test_what_was_freed_goes_back_to_the_system() -> None:
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(100_000) for _ in range(2_000)]  # below the size from which blocks are mapped by themselves
    pinned = blocks[::50]
    full = held()
    del blocks
    free_device()
    assert full - held() > 150_000_000
    assert len(pinned) == 40


@pytest.mark.parametrize("error", SHORT)
def test_when_not_even_one_example_fits_it_says_so_without_the_librarys_words(
    error: Callable[[], BaseException],
) -> None:
    def compute(_: UnlearnConfig) -> None:
        raise error()

    with pytest.raises(MemoryExhausted, match="one example at a time") as caught:
        with_smaller_batches(UnlearnConfig(micro_batch=4), compute)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("x"), FloatingPointError("nan")])
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: Exception) -> None:
    calls = 0

    def compute(_: UnlearnConfig) -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        with_smaller_batches(UnlearnConfig(micro_batch=8), compute)
    assert calls == 1
    assert not out_of_memory(error)


def test_a_device_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_DEVICE", "cuda:7")
    assert pick_device() == "cuda:7"
    monkeypatch.delenv("GRAIL_DEVICE")
    assert pick_device() in {"cpu", "cuda", "mps"}


def test_the_environment_places_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "quantisation_config", lambda *_: None)  # as if the extra were installed
    monkeypatch.setenv("GRAIL_DEVICE", "cuda")
    assert placement() == Placement("cuda")
    monkeypatch.setenv("GRAIL_DEVICE_MAP", "auto")
    monkeypatch.setenv("GRAIL_QUANTISATION", "nf4")
    assert placement() == Placement("cuda", "auto", "nf4")


@pytest.mark.parametrize("name", ["GRAIL_DEVICE_MAP", "GRAIL_QUANTISATION"])
def test_a_placement_that_there_is_not_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "balanced")
    with pytest.raises(WrongPlacement, match=f"{name} must be"):
        placement()


def test_a_worker_offers_what_it_is_told_to_or_all_that_its_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_DEVICE", "cpu")
    assert offered_bytes(Settings(worker_memory_bytes=7)) == 7
    assert offered_bytes(Settings()) == machine_bytes(Path("/")) > 10**8


@pytest.mark.parametrize(
    ("limit", "taken"), [("1000000", True), ("max", False), ("999999999999999999", False), (None, False)]
)
def test_in_a_container_its_share_counts(tmp_path: Path, limit: str | None, taken: bool) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if limit is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
    assert machine_bytes(tmp_path) == (1_000_000 if taken else physical)
