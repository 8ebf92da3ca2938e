"""Files of secrets: for their user alone, whole or not there, and never written over by accident."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.storage import sync_directory

OTHERS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
"""What nobody else may have; the group may read."""


class NotPrivate(Exception):
    """A file of secrets that can not be used. Says why, and repeats nothing of it: `the file ` + str(error)."""


class OpenToOthers(NotPrivate):
    """Somebody else may read or change it, or may have done so."""


def read(path: Path, most_bytes: int) -> str:
    """The file's text. Raises NotPrivate where it is missing, no plain file or larger, OpenToOthers."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise NotPrivate(f"can not be read ({type(error).__name__})") from None
    if not stat.S_ISREG(about.st_mode) or len(data) > most_bytes:
        raise NotPrivate("is no plain file of a few lines")
    if about.st_mode & OTHERS:
        raise OpenToOthers(f"has the mode {stat.S_IMODE(about.st_mode):04o}: others may read or change it")
    return data.decode("ascii", "replace")


def ensure(path: Path, make: Callable[[], bytes], mode: int = 0o600) -> Path:
    """The file, made when it is not there. Safe when two make it at once: both end with the same. Raises OSError."""
    if not path.exists():
        with suppress(FileExistsError):
            write_new(path, make(), mode)
    return path


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A new file. Raises FileExistsError, OSError."""
    partial = _partial(path, data, mode)
    try:
        os.link(partial, path)  # unlike a rename it replaces nothing
        sync_directory(path.parent)
    finally:
        partial.unlink()


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The file in the place of the one that is there. Raises OSError."""
    _partial(path, data, mode).replace(path)
    sync_directory(path.parent)


def _partial(path: Path, data: bytes, mode: int) -> Path:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink()
        raise
    return partial
