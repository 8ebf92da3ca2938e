"""Jobs that end with a report whose figures hold, without a worker: scores are made up, all that follows is real."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from app.config import Settings
from app.db import transaction
from app.jobs import members
from app.jobs import service as jobs
from app.reports.service import store
from app.storage import FileStore
from app.tables import Adapter, Job
from app.trust.keys import Ed25519Signer
from grail.config import GateConfig, UnlearnConfig
from grail.evaluate import compare
from grail.gate import decide
from grail.run import held_out
from grail.types import Example, Role, Segment
from tests.app.service import NOW, Floor
from tests.app.trust.evidence import values
from tests.grail.test_report import make_document

ORIGIN = "log.example.com/erasures"
SIGNER = Ed25519Signer.new(ORIGIN)


def signing(settings: Settings, signer: Ed25519Signer | None = SIGNER, **more: Any) -> Settings:
    """Settings of a control worker that can sign."""
    key = "" if signer is None else signer.pem().decode()
    return settings.model_copy(update={"signing_key": key, "log_origin": ORIGIN, **more})


def examples_of(requests: Sequence[str], subjects: int) -> list[Example]:
    """Items of each request, standing ones, and probes: of every group that a report has."""
    made = []
    for segment in Segment:
        for n in range(subjects):
            request = requests[n % len(requests)] if segment is Segment.FORGET or n < 2 else None
            made.append(Example(f"{segment}-{n:03}", "privacy", segment, f"subject {n % 5}", "ask", "say",
                                Role.ITEM, (), None, request))  # fmt: skip
    for n in range(3):
        made.append(Example(f"keep-{n}", "privacy", Segment.FORGET, f"subject {n}", "ask", "say", Role.KEEP, (), None,
                            requests[0]))  # fmt: skip
        made.append(Example(f"again-{n}", "privacy", Segment.FORGET, f"subject {n}", "ask", "say", Role.PARAPHRASE, (),
                            f"forget-{n:03}", requests[0]))  # fmt: skip
    return made


def document_for(floor: Floor, job_id: uuid.UUID, candidate: Any, *, subjects: int = 6, good: bool = True) -> Any:
    """A report of the job as the pipeline writes it."""
    with floor.db.session_factory() as session:
        job = session.get_one(Job, job_id)
        start = session.get_one(Adapter, job.start_adapter_id)
        requests = [str(found.id) for found in members.of(session, job)]
    config, gate = UnlearnConfig(holdout_share=0.4), GateConfig()
    found = examples_of(requests, subjects)
    items = [one for one in found if one.role is Role.ITEM]
    kept = {one.id: one.segment is Segment.RETAIN or one.role is Role.KEEP for one in found}
    before = {one.id: values(n, 1.0, fact=True) for n, one in enumerate(found)}
    after = {one.id: values(n, 1.0 if kept[one.id] or not good else 0.5, fact=False) for n, one in enumerate(found)}
    reference = {one.id: values(n, 0.52, fact=False) for n, one in enumerate(found)}
    without = held_out(items, config)
    result = compare(found, before, after, reference, gate, held_out=without)
    times = {"domain": "privacy", "received_at": NOW.isoformat(), "due_at": NOW.isoformat(), "legal_basis": None}
    model = {
        "base_path_name": "base", "base_digest": "ab" * 32, "note": None, "reference": "adapter off",
        "start_adapter": {"version": start.version, "name": start.name, "digest": start.digest},
        "candidate_adapter": None if candidate is None else {
            "version": candidate.version, "name": candidate.name, "digest": candidate.digest,
        },
    }  # fmt: skip
    about = {
        "id": str(job_id), "served_model": "people", "created_at": NOW.isoformat(), "started_at": NOW.isoformat(),
        "finished_at": NOW.isoformat(), "attempts": 1, "timings_seconds": {"unlearn": 1.5},
    }  # fmt: skip
    return make_document(
        result, job=about, requests=[{"id": key, **times} for key in requests], model=model, config=config,
        verdict=decide(result, gate), held_out=without,
    )  # fmt: skip


def evaluated(floor: Floor, *numbers: int, good: bool = True, **more: Any) -> uuid.UUID:
    """A job of a new request that a worker has handed in."""
    floor.ask(*(numbers or (1,)))
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    written = floor.written(job_id, fill=bytes([0x30 + (numbers or (1,))[0] % 64]))
    document = document_for(floor, job_id, written, good=good, **more)
    digest = store(document, FileStore(floor.settings.artifacts_dir))
    verdict = {**document["gate"], "ok": good}
    with transaction(floor.db) as session:
        jobs.evaluated(session, job_id, token, verdict, written, digest, {}, {}, now=NOW)
    return job_id


def concluded(floor: Floor, *numbers: int, **more: Any) -> uuid.UUID:
    """The same, published or rejected."""
    job_id = evaluated(floor, *numbers, **more)
    floor.conclude(job_id)
    return job_id


__all__ = ["ORIGIN", "SIGNER", "concluded", "document_for", "evaluated", "signing"]
