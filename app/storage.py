"""Blobs under their SHA-256: put gives the digest, get checks it. Written to a temporary name, fsynced, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
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


def sync_directory(directory: Path) -> None:
    """Make what was renamed in a directory outlive a loss of power."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        if path.is_file() and path.read_bytes() == data:  # one that was damaged is written again
            return digest
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._place(path, data)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull("a document could not be stored") from None
            raise
        return digest

    def put_file(self, source: Path) -> str:
        """Keep a copy of a file, whatever its size; its digest. Raises StorageFull."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = self.path(digest)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull("a document could not be stored") from None
            raise
        finally:
            partial.unlink(missing_ok=True)
        return digest

    def checked(self, digest: str) -> Path:
        """Where a blob lies, its bytes compared with its digest: for those too large to be read whole. Raises NotFound,
        BlobDamaged."""
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise NotFound("a stored document is missing") from None
        if found != digest:
            raise BlobDamaged("the bytes no longer have the digest under which they were stored")
        return path

    def _place(self, path: Path, data: bytes) -> None:
        """Write under a name of this call's own: another thread may be writing the same."""
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_directory(path.parent)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, digest: str) -> bytes:
        """See BlobStore."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound("a stored document is missing") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged("the bytes no longer have the digest under which they were stored")
        return data
