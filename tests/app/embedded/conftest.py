"""Directories for embedded servers; whatever a test leaves there is removed, also what lies outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_host import living, until

from app.embedded.services import EmbeddedServices


def emptied(directory: Path) -> None:
    until(lambda: not living(directory))
    EmbeddedServices(directory).destroy()


@pytest.fixture
def directory(open_directory: Path) -> Iterator[Path]:
    """Where services may run. Fails the test when a process is left."""
    made = open_directory / "data"
    yield made
    emptied(made)


@pytest.fixture
def closed_directory(tmp_path: Path) -> Iterator[Path]:
    """Where services may run, below a directory that only its owner may enter, as in a checkout in /root."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    yield home / "data"
    emptied(home / "data")
