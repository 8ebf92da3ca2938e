"""The faults of an import as a file that grows while it runs, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO

from app.imports.rows import Fault


class FaultFile:
    """A context manager; `begin` comes before the first `write`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FaultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, last_line: int) -> None:
        """Keep what is noted about lines up to `last_line`, whole; what a dead worker noted further on goes."""
        if self._file is not None:
            self._file.close()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(handle, "rb+")
        end = 0
        for line in self._file:
            if not line.endswith(b"\n") or json.loads(line)["line"] > last_line:
                break
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def write(self, faults: Iterable[Fault]) -> None:
        """Note what is wrong with one row."""
        assert self._file is not None  # noqa: S101 - see the class
        self._file.writelines(fault.as_line() for fault in faults)

    def to_disk(self) -> None:
        """Bring what is noted to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
