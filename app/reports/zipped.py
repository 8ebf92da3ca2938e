"""A ZIP file as a stream: entries stored as they are, one after the other, in constant memory.

The directory at a ZIP's end names every entry: until then it grows in a temporary file. Beyond 65,535 entries or 4 GiB
the fields of ZIP64 are written, which all readers of today know. Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from tempfile import SpooledTemporaryFile
from typing import IO

MOST_BYTES, MOST_ENTRIES = 0xFFFFFFFF, 0xFFFF
"""From here on a field holds these, and the number stands in a ZIP64 field."""
IN_MEMORY = 1 << 20
CHUNK = 1 << 16
UTF8 = 0x0800
UNIX, REGULAR_FILE = 3 << 8, 0o100644 << 16
FIRST_YEAR, LAST_YEAR = 1980, 2107
"""Years that an entry can name; others are told as the nearest."""
PLAIN, ZIP64 = 20, 45
"""Versions needed to read."""


class ZipStream:
    """Writes nothing itself: every method yields the bytes that come next."""

    def __init__(self) -> None:
        self.offset = self.count = 0
        self.directory: IO[bytes] = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  closed with the stream

    def entry(self, name: str, data: bytes, at: datetime) -> Iterator[bytes]:
        """A file of these bytes."""
        yield self._head(name, len(data), zlib.crc32(data), at)
        yield data

    def entry_of(self, name: str, file: IO[bytes], at: datetime) -> Iterator[bytes]:
        """A file of what stands in `file`, which is read twice."""
        size = crc = 0
        file.seek(0)
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        yield self._head(name, size, crc, at)
        file.seek(0)
        while chunk := file.read(CHUNK):
            yield chunk

    def end(self) -> Iterator[bytes]:
        """The directory; without it a reader knows that the rest is missing."""
        begin, size = self.offset, self.directory.tell()
        self.directory.seek(0)
        while chunk := self.directory.read(CHUNK):
            yield chunk
        if self.count >= MOST_ENTRIES or begin >= MOST_BYTES or size >= MOST_BYTES:
            yield struct.pack(
                "<4sQHHIIQQQQ", b"PK\6\6", 44, UNIX | ZIP64, ZIP64, 0, 0, self.count, self.count, size, begin
            )
            yield struct.pack("<4sIQI", b"PK\6\7", 0, begin + size, 1)
        count = min(self.count, MOST_ENTRIES)
        fields = (0, 0, count, count, min(size, MOST_BYTES), min(begin, MOST_BYTES), 0)
        yield struct.pack("<4sHHHHIIH", b"PK\5\6", *fields)

    def close(self) -> None:
        """Let go of the temporary file."""
        self.directory.close()

    def _head(self, name: str, size: int, crc: int, at: datetime) -> bytes:
        """The local header of an entry of so many bytes (below 4 GiB), which is noted for the directory."""
        raw = name.encode()
        day = (min(max(at.year, FIRST_YEAR), LAST_YEAR) - FIRST_YEAR << 9) | (at.month << 5) | at.day
        second = (at.hour << 11) | (at.minute << 5) | (at.second // 2)
        common = struct.pack("<HHHHIII", UTF8, 0, second, day, crc, size, size)
        far = self.offset >= MOST_BYTES
        extra = struct.pack("<HHQ", 1, 8, self.offset) if far else b""
        needs = ZIP64 if far else PLAIN
        self.directory.write(
            struct.pack("<4sHH", b"PK\1\2", UNIX | needs, needs) + common
            + struct.pack("<HHHHHII", len(raw), len(extra), 0, 0, 0, REGULAR_FILE, 0xFFFFFFFF if far else self.offset)
            + raw + extra
        )  # fmt: skip
        head = struct.pack("<4sH", b"PK\3\4", PLAIN) + common + struct.pack("<HH", len(raw), 0) + raw
        self.offset += len(head) + size
        self.count += 1
        return head
