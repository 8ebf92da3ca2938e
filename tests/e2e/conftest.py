"""The whole service with real processes on a tiny model that was taught a few facts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
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
        "GRAIL_BUNDLE_SECONDS": "0.5",
        "GRAIL_CHECKPOINT_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.getcwd(),
    }


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as opened:
        yield opened


SHARED = ExitStack()
"""What the tests that share a service have opened, until the last of them: it would compute beside all later tests."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if "stack" in getattr(item, "fixturenames", ()) and "stack" not in getattr(nextitem, "fixturenames", ()):
        SHARED.close()


@pytest.fixture(scope="session")
def stack(taught: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Stack:
    """One running service for all modules that can share it, one after the other (tests/conftest.py keeps them in one
    process); its processes keep their temporary files beside its data."""
    place = tmp_path_factory.mktemp("stack")
    (place / "tmp").mkdir()
    env = settings_env(taught) | {"TMPDIR": str(place / "tmp")}
    env |= {"GRAIL_TRACES_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    running = Stack(env, data_dir=place / "data", fsync=False)
    SHARED.callback(running.destroy)
    return SHARED.enter_context(running)


@pytest.fixture(scope="session")
def service(stack: Stack, taught: Path) -> Service:
    """The service with the taught model registered as `tiny`."""
    opened = SHARED.enter_context(Service(stack))
    opened.register("tiny", taught / "base", taught / "adapter", TEMPLATE, tiny_policy())
    return opened
