"""One job from the claim to what is handed in. The border at which an exception becomes a failed job is here.

Files of the starting version and of the base model are checked against their digests before anything is computed. The
candidate's files are written before their row, under the same fencing token that every write of the job needs.
"""

from __future__ import annotations

import os
import platform
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError

from app.adapters import service as adapters
from app.adapters.files import WrittenVersion, base_digest, verify_version, write_version
from app.config import Settings
from app.db import Database, transaction
from app.errors import ServiceError, Unavailable
from app.inputs.service import JobInputs, load
from app.jobs import service as jobs
from app.jobs.errors import LeaseLost
from app.reports.service import store as store_report
from app.storage import FileStore
from grail.config import RunSpec
from grail.model.adapter import save_adapter
from grail.model.load import LoadedModel, load_model
from grail.report import ADAPTER_OFF, document, request_metrics, request_outcome
from grail.types import Progress
from worker.artifacts import ArtefactStore
from worker.device import free_device, placement
from worker.failures import failure_of
from worker.heartbeat import Heartbeat
from worker.pipeline import Outcome, Pipeline
from worker.translate import run_spec

log = structlog.get_logger(__name__)

NOTE_FILE = "grail_note.txt"
NOTE_MAX_CHARS = 300


class BaseChanged(ServiceError):
    """The base model's weights are not those that were registered."""

    status, type, title = 500, "base-changed", "The base model was changed since it was registered"
    mend = "Restore the base model's files, or register the changed model under another name."


def work(db: Database, settings: Settings, job_id: uuid.UUID) -> None:
    """Take up the job and compute it to its verdict. Returns at once when there is nothing to take."""
    taken = _take(db, settings, job_id)
    if taken is None:
        return
    token, asked = taken
    with _border(db, job_id, token, asked):
        every, lease = settings.heartbeat_seconds, settings.lease_seconds
        with Heartbeat(db, job_id, token, every_seconds=every, lease_seconds=lease) as beat:
            _compute(db, settings, _inputs(db, job_id, token), token, beat)
    log.info("job_left", job_id=str(job_id), token=token)


def _take(db: Database, settings: Settings, job_id: uuid.UUID) -> tuple[int, dict[str, Any]] | None:
    """The fencing token and the settings of the job, if it could be claimed."""
    owner = f"{platform.node()}:{os.getpid()}"
    with transaction(db) as session:
        job = jobs.claim(session, job_id, owner, datetime.now(UTC), settings.lease_seconds)
        if job is None:
            return None
        log.info("job_claimed", job_id=str(job_id), token=job.fencing_token, attempts=job.attempts)
        return job.fencing_token, dict(job.settings["unlearn"])


def _inputs(db: Database, job_id: uuid.UUID, token: int) -> JobInputs:
    """What the job reads. Raises LeaseLost when it is gone, ValueError for an example that is none."""
    with transaction(db) as session:
        inputs = load(session, job_id)
    if inputs is None:
        raise LeaseLost(job_id, token)
    return inputs


@contextmanager
def _border(db: Database, job_id: uuid.UUID, token: int, asked: dict[str, Any]) -> Iterator[None]:
    """Whatever goes wrong ends as a failed job with words for people, or, when the job is no longer ours or the
    database is away or busy, as nothing: the lease runs out and the sweep rings again."""
    try:
        yield
    except LeaseLost:
        log.warning("lease_lost", job_id=str(job_id), token=token)
    except (Unavailable, OperationalError) as error:  # the latter: a deadlock or a lock timeout
        log.warning("job_put_off", job_id=str(job_id), kind=type(error).__name__)
    except Exception as error:  # noqa: BLE001  the border of a job: see the module's docstring
        failure = failure_of(error, asked)
        log.error("job_failed", job_id=str(job_id), kind=failure.error["type"], detail=failure.error["detail"])
        try:
            with transaction(db) as session:
                jobs.fail(
                    session, job_id, token, failure.error, failure.retryable, datetime.now(UTC),
                    changes=failure.changes,
                )  # fmt: skip
        except LeaseLost:
            log.warning("lease_lost", job_id=str(job_id), token=token)


def _compute(db: Database, settings: Settings, inputs: JobInputs, token: int, beat: Heartbeat) -> None:
    beat.report(Progress("load", 0.0))
    spec = run_spec(inputs)
    _check_files(settings, inputs)
    beat.report(Progress("load", 0.5))

    def finished(stage: str, digest: str, seconds: float) -> None:
        with transaction(db) as session:
            jobs.store_artefact(session, inputs.job_id, token, stage, digest, seconds)

    model = load_model(
        spec.base_model, spec.adapter, template=spec.prompt_template, precision=spec.unlearn.precision,
        reference=spec.reference_adapter, **asdict(placement()),
    )  # fmt: skip
    try:
        outcome = Pipeline(spec, model, ArtefactStore(settings.artifacts_dir), beat.report, finished).run()
        beat.report(Progress("write", 0.0))
        written = _write_candidate(db, settings, inputs, model, outcome)
        beat.report(Progress("report", 0.0))
        _hand_in(db, settings, inputs, token, spec, outcome, written)
    finally:
        del model
        free_device()


def _check_files(settings: Settings, inputs: JobInputs) -> None:
    """Raises VersionDamaged, BaseChanged, OSError."""
    verify_version(Path(inputs.start_adapter.directory), inputs.start_adapter.manifest)
    if base_digest(Path(inputs.base_model_path), settings.data_dir / "digests") != inputs.base_model_digest:
        raise BaseChanged("its weight files no longer have the digest under which it was registered")


def _write_candidate(
    db: Database, settings: Settings, inputs: JobInputs, model: LoadedModel, outcome: Outcome
) -> WrittenVersion | None:
    """The candidate's immutable directory, or None when nothing was changed. Raises StorageFull."""
    if outcome.state is None:
        return None
    with transaction(db) as session:
        number = adapters.next_version(session, inputs.served_model_id)
    settings.adapters_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.adapters_dir, prefix=".candidate-") as place:
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
) -> None:
    """Report, candidate and outcomes in one transaction under the token. Raises LeaseLost, StorageFull."""
    digest = store_report(_document(inputs, spec, outcome, written), FileStore(settings.artifacts_dir))
    by_request = {
        request: {**request_metrics(scope), "outcome": request_outcome(outcome.result.rows_of_request(request))}
        for request, scope in outcome.result.requests.items()
    }
    with transaction(db) as session:
        job = jobs.held(session, inputs.job_id, token)
        candidate = None if written is None else adapters.register_candidate(session, job, written)
        jobs.evaluated(
            session, job.id, token, outcome.verdict.as_dict(), candidate, digest, outcome.result.outcomes, by_request
        )


def _document(inputs: JobInputs, spec: RunSpec, outcome: Outcome, written: WrittenVersion | None) -> dict[str, Any]:
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
    )  # fmt: skip


def note_of(base: Path) -> str | None:
    """What is to be said of the base model in reports: one line in `grail_note.txt` beside its weights."""
    try:
        text = (base / NOTE_FILE).read_text(encoding="utf-8")[:NOTE_MAX_CHARS]
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(text.split()) or None
