"""Signed statements about adapter versions: how one was made, what was measured and what was erased (DSSE envelopes of
in-toto statements, by the log's key), and `model.sig` for the `model_signing` package (by a key on P-256).

They are rows, not files: a version's directory is immutable and holds what its manifest names. The statements are made
in the transaction that seals the report, from the report; `model.sig` whenever there is a key for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.bundles import repository
from app.reports.schemas import Document
from app.tables import Adapter
from app.trust.dsse import sign_statement
from app.trust.keys import Signer
from app.trust.model_signature import SIGNATURE, ModelSigner, sign_model
from app.trust.statement import erasure, eval_result, provenance

PROVENANCE, EVAL_RESULT, ERASURE = "provenance.json", "eval-result.json", "erasure.json"
PUBLIC_KEY = "model.pub"
MANIFEST = "manifest.json"
NOT_MEASURED = ("platform", "threads", "precision")
"""What of a report's environment is no version of software."""


def attest(
    session: Session, adapter: Adapter, report: Document, report_digest: str, signers: Sequence[Signer], now: datetime
) -> None:
    """Keep the three statements about a version that a job published, and put their digests into the audit trail.
    Nothing when there are any."""
    files = {one["file"]: one["sha256"] for one in adapter.manifest["files"]}
    made = {
        PROVENANCE: _provenance(files, report, signers[0].name, now),
        EVAL_RESULT: eval_result(files, report, report_digest, now),
        ERASURE: erasure(
            files, requests={one["id"]: one["outcome"] for one in report["requests"]}, report_digest=report_digest,
            replaces=(report["model"]["start_adapter"] or {}).get("digest"), at=now,
        ),
    }  # fmt: skip
    signed = {name: sign_statement(statement, signers) for name, statement in made.items()}
    if repository.attest(session, adapter.id, signed):
        record(
            session, "adapter.attested", subject_id=str(adapter.id), at=now,
            **{name.removesuffix(".json"): _digest(body) for name, body in signed.items()},
        )  # fmt: skip


def sign(session: Session, adapter: Adapter, signer: ModelSigner, now: datetime) -> None:
    """Keep the `model.sig` of a version with the key that verifies it, and put its digest into the audit trail."""
    files = {one["file"]: one["sha256"] for one in adapter.manifest["files"]}
    signature = sign_model(adapter.name, files, signer, ignored=(MANIFEST,))
    if repository.attest(session, adapter.id, {SIGNATURE: signature, PUBLIC_KEY: signer.public_pem}):
        record(
            session, "adapter.signed", subject_id=str(adapter.id), at=now, signature=_digest(signature),
            public=_digest(signer.public_pem),
        )  # fmt: skip


def _provenance(files: dict[str, str], report: Document, origin: str, now: datetime) -> dict[str, Any]:
    job, model, found = report["job"], report["model"], report["environment"]
    made_from = [("base model", model["base_digest"])]
    if model["start_adapter"]:
        made_from.append((model["start_adapter"]["name"], model["start_adapter"]["digest"]))
    finished = _time(job["finished_at"]) or now
    return provenance(
        files, builder=f"urn:grail:service:{origin}", job_id=job["id"], settings=report["method"], made_from=made_from,
        versions={name: str(value) for name, value in found.items() if name not in NOT_MEASURED},
        started_at=_time(job["started_at"]) or _time(job["created_at"]) or finished, finished_at=finished,
    )  # fmt: skip


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
