"""What a job's worker writes while it computes, and nobody needs afterwards: a directory for each job.

Training checkpoints, half-written artefacts and the candidate before it has its name lie there and nowhere else. The
worker wipes its job's directory when the job is over; the sweep wipes those of jobs that are over without their worker
having said so. A job that is queued again keeps it: the next worker goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

import structlog

from app.db import Database, transaction
from app.jobs import repository

log = structlog.get_logger(__name__)

DIRECTORY = "scratch"


def place(data_dir: Path, job_id: uuid.UUID) -> Path:
    """Where the worker of a job writes, made if it is not there; for the service's user alone."""
    path = data_dir / DIRECTORY / str(job_id)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def wipe_if_over(db: Database, data_dir: Path, job_ids: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Wipe the directories of those of these jobs that no worker computes or will. Which ones. Raises Unavailable."""
    if not job_ids:
        return []
    with transaction(db) as session:
        computed = repository.to_compute(session, job_ids)
    over = [job_id for job_id in job_ids if job_id not in computed]
    for job_id in over:
        _wipe(data_dir / DIRECTORY / str(job_id))
    return over


def sweep(db: Database, data_dir: Path) -> list[uuid.UUID]:
    """Wipe what dead workers left. Ids of the jobs. Raises Unavailable.

    The directories are listed first and their jobs read then: a job is claimed before its directory is made, so that
    none is taken for over that has just begun.
    """
    return wipe_if_over(db, data_dir, _left(data_dir / DIRECTORY))


def _left(directory: Path) -> list[uuid.UUID]:
    """Ids of the jobs that have a directory."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        try:
            found.append(uuid.UUID(path.name))
        except ValueError:
            continue
    return found


def _wipe(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("scratch_not_wiped", directory=path.name)  # the next sweep tries again
