"""One job from the claim to what is handed in. The border at which an exception becomes a failed job is here.

Files of the starting version and of the base model are checked against their digests before anything is computed. The
candidate's files are written before their row, under the same fencing token that every write of the job needs.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.adapters.files import WrittenVersion, base_digest, verify_version, write_version
from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import ServiceError, Unavailable
from app.inputs.service import JobInputs, load
from app.jobs import scratch
from app.jobs import service as jobs
from app.jobs.errors import LeaseLost
from app.reports.service import store as store_report
from app.storage import FileStore
from app.telemetry.context import note
from app.telemetry.tracing import past, span
from grail.config import RunSpec
from grail.model.adapter import save_adapter
from grail.model.load import LoadedModel, load_model
from grail.report import ADAPTER_OFF, document, request_metrics, request_outcome
from grail.types import Interrupted, Progress
from worker.ability import Probing, around, probing
from worker.artifacts import ArtefactStore
from worker.device import free_device, offered_bytes, placement, set_imports_aside
from worker.failures import failure_of
from worker.heartbeat import Heartbeat
from worker.pipeline import Outcome, Pipeline
from worker.presence import worker_name
from worker.shutdown import SHUTDOWN
from worker.translate import run_spec

log = structlog.get_logger(__name__)

NOTE_FILE = "grail_note.txt"
NOTE_MAX_CHARS = 300
REQUESTS_LOGGED = 100
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""Between tries to tell a database that is away how a job ended."""


class BaseChanged(ServiceError):
    """The base model's weights are not those that were registered."""

    status, type, title = 500, "base-changed", "The base model was changed since it was registered"
    mend = "Restore the base model's files, or register the changed model under another name."


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that this worker holds. `settings` are those of its run; `owners` names the request of each example that is
    a request's, once its inputs were read."""

    job_id: uuid.UUID
    token: int
    settings: dict[str, Any]
    owners: dict[str, uuid.UUID] = field(default_factory=dict)
    traceparent: str | None = None


def work(db: Database, settings: Settings, rung: uuid.UUID) -> None:
    """Answer the doorbell of the job `rung`: take up the most urgent job that fits this worker, that one or another,
    and compute it to its verdict. Returns at once when there is nothing to take, or this process is to end."""
    taken = None if SHUTDOWN.asked else _take(db, settings, rung)
    if taken is None:
        return
    set_imports_aside()
    every, lease = settings.heartbeat_seconds, settings.lease_seconds
    beat = Heartbeat(db, taken.job_id, taken.token, every_seconds=every, lease_seconds=lease)
    with _border(db, settings, taken, beat), span("run job", parent=taken.traceparent, job_id=taken.job_id), beat:
        _compute(db, settings, _inputs(db, taken), taken.token, beat)
    with suppress(Unavailable):  # the sweep does it then
        scratch.wipe_if_over(db, settings.data_dir, [taken.job_id])
    log.info("job_left", job_id=str(taken.job_id), token=taken.token)


def _take(db: Database, settings: Settings, rung: uuid.UUID) -> Taken | None:
    """The first of the jobs whose turn it is that could be claimed."""
    memory = offered_bytes(settings)
    with transaction(db) as session:
        turns = jobs.claimable(session, clock(session), memory)
    for job_id in turns:
        with transaction(db) as session:
            job = jobs.claim(session, job_id, worker_name(), clock(session), settings.lease_seconds, memory)
            if job is not None:
                log.info(
                    "job_claimed", job_id=str(job_id), token=job.fencing_token, attempts=job.attempts, rung=str(rung)
                )
                note(job_id=job_id)
                return Taken(
                    job_id, job.fencing_token, dict(job.settings["unlearn"]), traceparent=job.traceparent
                )
    return None


def _inputs(db: Database, taken: Taken) -> JobInputs:
    """What the job reads. Raises LeaseLost when it is gone, ValueError for an example that is none."""
    with transaction(db) as session:
        inputs = load(session, taken.job_id)
    if inputs is None:
        raise LeaseLost(taken.job_id, taken.token)
    note(model=inputs.served_model)
    log.info("job_inputs", request_ids=[str(request.id) for request in inputs.requests[:REQUESTS_LOGGED]])
    taken.owners.update({e.id: uuid.UUID(e.request) for e in inputs.examples if e.request is not None})
    return inputs


@contextmanager
def _border(db: Database, settings: Settings, taken: Taken, beat: Heartbeat) -> Iterator[None]:
    """Whatever goes wrong ends as a failed job with words for people or as one that is queued again, or, when the job
    is no longer ours, as nothing."""
    job_id, token = taken.job_id, taken.token
    try:
        yield
    except LeaseLost:
        log.warning("lease_lost", job_id=str(job_id), token=token, step=_step(beat))
    except Interrupted:
        log.info("job_given_back", job_id=str(job_id), token=token)
        _tell(db, settings, taken, beat, lambda session: jobs.give_back(session, job_id, token, clock(session)))
    except Exception as error:  # noqa: BLE001  the border of a job: see the module's docstring
        failure = failure_of(error, taken.settings, taken.owners)
        said = failure.error
        log.error("job_failed", job_id=str(job_id), kind=failure.kind, error=said["type"], detail=said["detail"])
        memory, chance = offered_bytes(settings), SystemRandom().random()
        _tell(
            db, settings, taken, beat,
            lambda session: jobs.fail(
                session, job_id, token, failure, clock(session), offered_bytes=memory, chance=chance
            ),
        )  # fmt: skip


def _step(beat: Heartbeat) -> int:
    return beat.latest.step if beat.latest else 0


def _tell(
    db: Database, settings: Settings, taken: Taken, beat: Heartbeat, change: Callable[[Session], Any]
) -> None:
    """Make a last change to the job, if it is still ours: one that was cancelled may have lost its files first. While
    the database is away or busy it is tried again, until the lease has run out: then the sweep rings for another
    worker."""
    deadline, pause = time.monotonic() + settings.lease_seconds, FIRST_PAUSE_SECONDS
    while True:
        try:
            with transaction(db) as session:
                change(session)
        except LeaseLost:
            log.warning("lease_lost", job_id=str(taken.job_id), token=taken.token, step=_step(beat))
        except (Unavailable, OperationalError) as error:  # the latter: a deadlock or a lock timeout
            if time.monotonic() + pause < deadline and not SHUTDOWN.asked:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            log.warning("job_left_to_its_lease", job_id=str(taken.job_id), kind=type(error).__name__)
        return


def _compute(db: Database, settings: Settings, inputs: JobInputs, token: int, beat: Heartbeat) -> None:
    beat.report(Progress("load", 0.0))
    spec = run_spec(inputs)
    _check_files(settings, inputs)
    beat.report(Progress("load", 0.5))

    def finished(stage: str, digest: str, seconds: float) -> None:
        with transaction(db) as session:
            jobs.store_artefact(session, inputs.job_id, token, stage, digest, seconds)
        past(stage, seconds, job_id=inputs.job_id)
        log.info("stage_finished", stage=stage, seconds=round(seconds, 3))

    model = load_model(
        spec.base_model, spec.adapter, template=spec.prompt_template, precision=spec.unlearn.precision,
        reference=spec.reference_adapter, **asdict(placement()),
    )  # fmt: skip
    try:
        store = ArtefactStore(settings.artifacts_dir, scratch.place(settings.data_dir, inputs.job_id))
        probes = probing(spec, beat.report)
        outcome = around(probes, model, Pipeline(spec, model, store, beat.report, finished).run)
        beat.report(Progress("write", 0.0))
        written = _write_candidate(db, settings, inputs, token, model, outcome)
        beat.report(Progress("report", 0.0))
        _hand_in(db, settings, inputs, token, spec, outcome, written, probes)
    finally:
        del model
        free_device()


def _check_files(settings: Settings, inputs: JobInputs) -> None:
    """Raises VersionDamaged, BaseChanged, OSError."""
    verify_version(Path(inputs.start_adapter.directory), inputs.start_adapter.manifest)
    if base_digest(Path(inputs.base_model_path), settings.data_dir / "digests") != inputs.base_model_digest:
        raise BaseChanged("its weight files no longer have the digest under which it was registered")


def _write_candidate(
    db: Database, settings: Settings, inputs: JobInputs, token: int, model: LoadedModel, outcome: Outcome
) -> WrittenVersion | None:
    """The candidate's immutable directory, or None when nothing was changed. Raises LeaseLost, StorageFull."""
    if outcome.state is None:
        return None
    with transaction(db) as session:
        number = jobs.next_version(session, inputs.job_id, token)
    settings.adapters_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch.place(settings.data_dir, inputs.job_id)) as place:
        save_adapter(model.model, Path(place), outcome.state)
        return write_version(
            Path(place), settings.adapters_dir, model_name=inputs.served_model, version=number,
            base_model_digest=inputs.base_model_digest, parent=inputs.start_adapter.name,
        )  # fmt: skip


def _hand_in(
    db: Database,
    settings: Settings,
    inputs: JobInputs,
    token: int,
    spec: RunSpec,
    outcome: Outcome,
    written: WrittenVersion | None,
    probes: Probing | None,
) -> None:
    """Report, candidate and outcomes in one transaction under the token. Raises LeaseLost, StorageFull."""
    report = _document(inputs, spec, outcome, written, probes)
    by_request = {
        request: {**request_metrics(scope), "outcome": request_outcome(outcome.result.rows_of_request(request))}
        for request, scope in outcome.result.requests.items()
    }
    with transaction(db) as session:
        job = jobs.held(session, inputs.job_id, token)  # a worker that lost it stores no report either
        digest = store_report(report, FileStore(settings.artifacts_dir))
        jobs.evaluated(
            session, job.id, token, outcome.verdict.as_dict(), written, digest, outcome.result.outcomes, by_request
        )


def _document(
    inputs: JobInputs, spec: RunSpec, outcome: Outcome, written: WrittenVersion | None, probes: Probing | None
) -> dict[str, Any]:
    """The report of the job."""
    start = inputs.start_adapter
    reference = ADAPTER_OFF if spec.reference_adapter is None else f"registered adapter {spec.reference_digest}"
    return document(
        job={
            "id": str(inputs.job_id),
            "served_model": inputs.served_model,
            "created_at": inputs.created_at.isoformat(),
            "started_at": None if inputs.started_at is None else inputs.started_at.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "attempts": inputs.attempts,
            "timings_seconds": outcome.timings,
        },
        requests=[
            {
                "id": str(request.id),
                "domain": request.domain,
                "received_at": request.received_at.isoformat(),
                "due_at": request.due_at.isoformat(),
                "legal_basis": request.legal_basis,
            }
            for request in inputs.requests
        ],
        model={
            "base_path_name": spec.base_model.name,
            "base_digest": spec.base_digest,
            "note": note_of(spec.base_model),
            "start_adapter": {"version": start.version, "name": start.name, "digest": start.digest},
            "candidate_adapter": None
            if written is None
            else {"version": written.version, "name": written.name, "digest": written.digest},
            "reference": reference,
        },
        config=spec.unlearn,
        result=outcome.result,
        verdict=outcome.verdict,
        regions=outcome.regions,
        log=outcome.log,
        environment=outcome.environment,
        held_out=outcome.held_out,
        ability=None if probes is None else probes.as_dict(),
    )  # fmt: skip


def note_of(base: Path) -> str | None:
    """What is to be said of the base model in reports: one line in `grail_note.txt` beside its weights."""
    try:
        text = (base / NOTE_FILE).read_text(encoding="utf-8")[:NOTE_MAX_CHARS]
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(text.split()) or None
