"""Parts of a pass that do not fail with one another, if whoever runs it says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Apart = Callable[..., AbstractContextManager[None]]
"""What is put around each part; its keywords name the part."""


@contextmanager
def together(**_: str) -> Iterator[None]:
    """A failure ends the pass."""
    yield
