"""The whole service with real processes on a tiny model that was taught a few facts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cli.stack import Stack
from tests.e2e.collector import Collector
from tests.e2e.service import Service, tiny_policy
from tests.fixtures.facts import TEMPLATE, taught_adapter
from tests.fixtures.tiny_model import tiny_base


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `base` and `adapter`."""
    place = tmp_path_factory.mktemp("taught")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taught_adapter(tiny_base(place / "base"), place / "adapter")
    torch.set_num_threads(threads)
    return place


def settings_env(models: Path) -> dict[str, str]:
    """Settings under which everything happens at once, and leases run out soon."""
    return {
        "GRAIL_MODEL_ROOTS": f'["{models}"]',
        "GRAIL_LEASE_SECONDS": "3",
        "GRAIL_HEARTBEAT_SECONDS": "0.3",
        "GRAIL_PLAN_SECONDS": "0.3",
        "GRAIL_SWEEP_SECONDS": "0.3",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.getcwd(),
    }


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as opened:
        yield opened


@pytest.fixture(scope="session")
def stack(taught: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One running service for all modules that can share it (tests/conftest.py keeps them in one process); its
    processes keep their temporary files beside its data."""
    place = tmp_path_factory.mktemp("stack")
    (place / "tmp").mkdir()
    env = settings_env(taught) | {"TMPDIR": str(place / "tmp")}
    env |= {"GRAIL_TRACES_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with Stack(env, data_dir=place / "data", fsync=False) as running:
        yield running
    running.destroy()


@pytest.fixture(scope="session")
def service(stack: Stack, taught: Path) -> Iterator[Service]:
    """The service with the taught model registered as `tiny`."""
    with Service(stack) as opened:
        opened.register("tiny", taught / "base", taught / "adapter", TEMPLATE, tiny_policy())
        yield opened
