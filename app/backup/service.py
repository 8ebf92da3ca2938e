"""Do rows and files belong together? After a restore, and whenever an operator asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters.files import VersionDamaged, has_weights, verify_version
from app.adapters.weights_repository import weights_over
from app.backup import repository
from app.config import Settings
from app.db import clock
from app.errors import NotFound
from app.storage import HEX, BlobDamaged, FileStore


@dataclass(slots=True)
class Checked:
    """`missing` and `damaged` name what rows need and can not have; `orphans` files that no row needs, which do no
    harm: of jobs that came to no end, or stored after the database was dumped. `without_weights` counts versions whose
    weights were destroyed, as they had to be."""

    versions: int = 0
    without_weights: int = 0
    documents: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing that a row needs is missing or damaged."""
        return not (self.missing or self.damaged)


def check(session: Session, settings: Settings) -> Checked:
    """Every version against its manifest, every stored document against its digest: reads all of their bytes.

    Weights that were destroyed are not missed, nor are those that are to be: a backup's database may be a little older
    than its files. If they lie there, of a backup from before, they are orphans, and go as such.
    """
    found = Checked()
    rows, digests = repository.versions(session), repository.blobs(session)
    over = weights_over(session, clock(session))
    for row in rows:
        found.versions += 1
        place = Path(row.directory)
        there = has_weights(place)
        if row.id in over:
            found.without_weights += not there
            if there and row.weights_destroyed_at is not None:
                found.orphans.append(f"weights of {row.name}")
        try:
            verify_version(place, row.manifest, weights=row.id not in over)
        except VersionDamaged:
            (found.damaged if place.is_dir() else found.missing).append(f"version {row.name}")
    store = FileStore(settings.artifacts_dir)
    for digest in sorted(digests):
        found.documents += 1
        try:
            store.checked(digest)
        except NotFound:
            found.missing.append(f"document {digest}")
        except BlobDamaged:
            found.damaged.append(f"document {digest}")
    known = {str(Path(row.directory)) for row in rows} | digests
    found.orphans = sorted([*found.orphans, *_orphans(settings, known)])
    return found


def _orphans(settings: Settings, known: set[str]) -> Iterator[str]:
    if settings.adapters_dir.is_dir():
        for place in settings.adapters_dir.absolute().iterdir():
            if not place.name.startswith(".") and str(place) not in known:
                yield f"version {place.name}"
    if settings.artifacts_dir.is_dir():
        for path in settings.artifacts_dir.glob("??/*"):
            if HEX.fullmatch(path.name) and path.name not in known:
                yield f"document {path.name}"
