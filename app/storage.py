"""Blobs under their SHA-256: put gives the digest, get checks it. Written to a temporary name, fsynced, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Protocol

from app.errors import NotFound, ServiceError, StorageFull

HEX = re.compile(r"[0-9a-f]{64}")


class BlobDamaged(ServiceError):
    """Stored bytes no longer have their digest."""

    status, type, title = 500, "blob-damaged", "A stored document was changed or damaged on disk"
    mend = "Restore it from a backup; do not rely on what is there."


class BlobStore(Protocol):
    """Where documents are kept."""

    def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256 in hex. Raises StorageFull."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes with that digest. Raises NotFound, BlobDamaged."""
        ...


class FileStore:
    """A directory, sharded by the first two digits of the digest."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where a blob lies. Raises ValueError for anything but a digest: no path can be smuggled in."""
        if not HEX.fullmatch(digest):
            raise ValueError("not a SHA-256 digest in hex")
        return self.root / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """See BlobStore."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if path.is_file():
            return digest
        partial = path.with_name(f".{digest}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull("a document could not be stored") from None
            raise
        return digest

    def get(self, digest: str) -> bytes:
        """See BlobStore."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound("a stored document is missing") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged("the bytes no longer have the digest under which they were stored")
        return data
