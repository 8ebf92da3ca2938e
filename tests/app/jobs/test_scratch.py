"""What a job's worker left is wiped once the job is over, and not before."""

from __future__ import annotations

import stat
import uuid

from app.db import transaction
from app.jobs import scratch
from app.jobs import service as jobs
from app.tables import Job
from tests.app.service import NOW as CLAIMED
from tests.app.service import Floor


def fill(floor: Floor, job_id: uuid.UUID) -> None:
    place = scratch.place(floor.settings.data_dir, job_id) / "key.partial"
    place.mkdir(exist_ok=True)
    (place / "resume.safetensors").write_bytes(b"weights")


def left(floor: Floor) -> set[str]:
    place = floor.settings.data_dir / scratch.DIRECTORY
    return {path.name for path in place.iterdir()} if place.exists() else set()


def sweep(floor: Floor) -> list[uuid.UUID]:
    return scratch.sweep(floor.db, floor.settings.data_dir)


def test_a_job_that_is_queued_or_at_work_keeps_what_it_wrote(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.order()
    fill(floor, job_id)
    mode = (floor.settings.data_dir / scratch.DIRECTORY / str(job_id)).stat().st_mode
    assert stat.S_IMODE(mode) == 0o700
    assert sweep(floor) == []
    floor.claim(job_id, CLAIMED)
    assert sweep(floor) == []
    assert left(floor) == {str(job_id)}


def test_a_job_that_is_over_or_unknown_leaves_nothing(floor: Floor) -> None:
    floor.ask(1)
    job_id, unknown = floor.order(), uuid.uuid4()
    for one in (job_id, unknown):
        fill(floor, one)
    (floor.settings.data_dir / scratch.DIRECTORY / "not ours").mkdir()
    floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert set(sweep(floor)) == {job_id, unknown}
    assert left(floor) == {"not ours"}
    assert sweep(floor) == []


def test_a_verdict_ends_it_too(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.order()
    token = floor.claim(job_id)
    fill(floor, job_id)
    assert token is not None
    with transaction(floor.db) as session:
        jobs.give_back(session, job_id, token, CLAIMED)
    assert sweep(floor) == [], "given back: another goes on from its checkpoint"
    with transaction(floor.db) as session:
        session.get_one(Job, job_id).state = jobs.JobState.EVALUATED
    assert sweep(floor) == [job_id]
