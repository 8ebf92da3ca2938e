"""One running service for all named faults."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.case import Case
from tests.faults.ground import Ground, may_mount
from tests.fixtures.facts import taught_adapter
from tests.fixtures.tiny_model import tiny_base


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Two gpu workers, short leases; the disk is a small one where that can be had."""
    with tempfile.TemporaryDirectory(prefix="grail-faults-", ignore_cleanup_errors=True) as made:
        place, threads = Path(made), torch.get_num_threads()
        place.chmod(0o755)
        torch.set_num_threads(1)
        taught_adapter(tiny_base(place / "models" / "base"), place / "models" / "adapter", steps=20)
        torch.set_num_threads(threads)
        with Ground(place / "models", place, small_disk=may_mount()) as running:
            yield running


@pytest.fixture
def case(ground: Ground) -> Iterator[Case]:
    """A fresh case; whatever a test leaves broken is mended for the next."""
    yield Case(ground)
    ground.heal()
