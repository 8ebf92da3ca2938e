"""One thread for everything that computes, the tiny model, and the service's rows where a job needs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.app.conftest import caller, floor
from tests.fixtures.tiny_model import tiny_adapter_directory, tiny_base_directory
from tests.worker.bench import Bench, make_bench

__all__ = ["caller", "floor", "tiny_adapter_directory", "tiny_base_directory"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(
    tiny_base_directory: Path, tiny_adapter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    return make_bench(tiny_base_directory, tiny_adapter_directory, tmp_path / "artifacts", monkeypatch)
