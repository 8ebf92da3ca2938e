"""The tasks. A message is a doorbell that carries an id at most; the rows say what is to be done."""

from __future__ import annotations

import uuid

from app.audit_log import checkpoints, parts, sequencing
from app.batches import service as batches
from app.bundles import service as bundles
from app.certificates import issuing as certificates
from app.db import clock, transaction
from app.imports import run as imports
from app.imports import service as import_service
from app.jobs import scratch
from app.jobs import service as jobs
from app.orphans import service as orphans
from app.retention import service as retention
from worker.celery import celery
from worker.learning import load_stack
from worker.task import LeasedTask, SenderTask, ServiceTask, SingleTask


@celery.task(name="grail.plan_batches", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def plan_batches(self: ServiceTask) -> None:
    """Make the batches that are due, those of each served model by themselves."""
    batches.plan(self.db, apart=self.apart)


@celery.task(name="grail.run_job", base=LeasedTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def run_job(self: LeasedTask, job_id: str) -> None:
    """Take the job up and compute it to its verdict; nothing if somebody else has it or it is done."""
    load_stack()  # by the workers that compute, and by no other
    from worker.job import work

    work(self.db, self.settings, uuid.UUID(job_id))


@celery.task(name="grail.publish_job", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def publish_job(self: ServiceTask, job_id: str) -> None:
    """Draw the consequence of a job's verdict."""
    with transaction(self.db) as session:
        jobs.conclude(session, uuid.UUID(job_id), clock(session))


@celery.task(name="grail.run_import", base=LeasedTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def run_import(self: LeasedTask, import_id: str) -> None:
    """Take an import up and bring it to its end; nothing if somebody else has it or it is done."""
    imports.run(self.db, self.settings, uuid.UUID(import_id))


@celery.task(name="grail.sweep", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def sweep(self: ServiceTask) -> None:
    """Ring again for what waits, since messages may be lost and workers may die; then remove what is old."""
    with transaction(self.db) as session:
        jobs.sweep(session, clock(session))
    with transaction(self.db) as session:
        import_service.sweep(session, clock(session))
    scratch.sweep(self.db, self.settings.data_dir)
    with self.apart(kind_of_rows="parts of the audit trail"):
        parts.make_ahead(self.db)
    for kind in retention.KINDS:
        with self.apart(kind_of_rows=kind):
            retention.remove(self.db, self.settings, kind)


@celery.task(name="grail.deliver", base=SenderTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def deliver(self: SenderTask) -> None:
    """Tell webhooks what happened."""
    self.sender.run()


@celery.task(name="grail.remove_orphans", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def remove_orphans(self: ServiceTask) -> None:
    """Remove files of processes that died."""
    orphans.remove(self.db, self.settings)


@celery.task(name="grail.number_leaves", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def number_leaves(self: ServiceTask) -> None:
    """Give leaves of the audit trail their numbers; nothing while another worker does it."""
    sequencing.number_all(self.db)


@celery.task(name="grail.issue_checkpoint", base=ServiceTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def issue_checkpoint(self: ServiceTask) -> None:
    """Sign the audit log, if it grew or the last checkpoint is old."""
    checkpoints.issue_when_due(self.db, self.settings)


@celery.task(name="grail.bundle_reports", base=SingleTask, bind=True)  # type: ignore[untyped-decorator]  # celery is not annotated
def bundle_reports(self: SingleTask) -> None:
    """Certify erasures that are done; sign what was published and concluded, seal it in the audit log, and put bundles
    together."""
    if not self.turn.acquire(blocking=False):
        return  # the last ring is still at work
    try:
        with self.apart(kind_of_rows="certificates"):
            certificates.drive(self.db, self.settings, apart=self.apart)
        with self.apart(kind_of_rows="attestations"):
            bundles.attest(self.db, self.settings)
        bundles.drive(self.db, self.settings, apart=self.apart)
    finally:
        self.turn.release()
